"""Engine, gateway and ledger of one day beside each other: what sets them apart, and whether that explains it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.meter.core.engine_readings import EngineDay
from shared.messages.meter_audit import AuditState, Cause, MachineAudit

SKEW_SECONDS = 2.0
"""Between an engine's count and the gateway's end of the same request. A reading that takes longer is none: of which
moment it is could not be said."""
REQUEST_TOKENS = 2048
"""A request of which nothing at all is known, or its prompt, where the day has no larger one."""
FASTEST = 1000.0
"""Tokens a second of one answer: beyond any engine, for a day that has no whole stream to measure."""
PACE_MARGIN = 2.0
"""How much faster a request may have been answered than the fastest whole stream of the day on its machine."""
PROBE_TOKENS = 64
"""The same for a probe whose answer did not come."""
SETTLED_SECONDS = 5.0
"""A reading is compared once the events of its time are in the ledger."""


@dataclass(frozen=True, kw_only=True)
class GenerationUsage:
    """What the ledger has of one generation of a machine; tokens are prompt and completion together."""

    machine: str
    generation: int
    requests: int = 0
    """Of the day."""
    tokens: int = 0
    """Of the day."""
    read: int = 0
    """Of requests that ended while the engine was read."""
    straddling: int = 0
    """Of requests that were under way when the counting began, or at the last reading."""
    unread: int = 0
    """Of the day's requests that ended outside the readings."""
    uncertain: int = 0
    """Requests read whose tokens the engine may count differently: left, lost, failed inside, counted by ourselves."""
    left_prompt: int = 0
    """Their prompt tokens, as far as they are known."""
    left_completion: int = 0
    """Their completion tokens."""
    left_unknown: int = 0
    """How many prompts of them, one for each choice, are not known, and neither is the length of the body."""
    left_bytes: int = 0
    """The bodies with the other unknown prompts, once for each choice: a token takes a byte at least."""
    left_seconds: float = 0.0
    """How long the engine may have worked on those that did not limit their answers, for each choice."""
    left_limited_seconds: float = 0.0
    """On those that did."""
    left_limit: float = 0.0
    """Tokens to which they limited all their answers."""
    choices: int = 0
    """Choices read beyond the first of each request."""
    choice_prompts: int = 0
    """The prompt tokens of these choices: vLLM counts a prompt once for each."""
    choice_seconds: float = 0.0
    """How long the engine may have worked on these choices; those of what was left are in `left_seconds`."""
    choice_limited_seconds: float = 0.0
    choice_limit: float = 0.0
    largest: int = 0
    """The largest request's tokens."""
    largest_prompt: int = 0
    pace: float | None = None
    """Tokens a second of the fastest stream that was read whole; None: there is none."""


@dataclass(frozen=True, kw_only=True)
class FleetEvent:
    """Something that happened to a machine and that explains a difference."""

    machine: str
    at: float
    kind: str
    """`start`, `probe`, `lost_probe`, `death` of the machine; `crash` of a gateway; `reset` of the counters."""
    amount: int = 0
    """A probe's tokens; the requests that a gateway had there when it died."""
    since: float | None = None
    """Of a reset: the reading before."""
    lost: int = 0
    """Of a reset: what the ledger has between that reading and the next."""


@dataclass(frozen=True, kw_only=True)
class MachineDay:
    """All that is known of one machine's day."""

    machine: str
    days: Sequence[EngineDay]
    """One for each generation that was read."""
    work: Sequence[GenerationUsage]
    notes: Sequence[FleetEvent]
    moved: int = 0
    """Requests that it had first and that went to another machine: the event is of that one."""
    moved_prompts: int = 0
    """Their prompt tokens, or the bytes of their bodies where these are not known, for each choice."""
    moved_seconds: float = 0.0
    """How long it may have worked on them, for each choice; as `left_seconds` and the next two of `GenerationUsage`."""
    moved_limited_seconds: float = 0.0
    moved_limit: float = 0.0
    fault: str = ""
    """Why its engine could not be read, the last time that it could not."""
    judged: bool = True
    """False: work is under way somewhere between engine and ledger."""


@dataclass(frozen=True, kw_only=True)
class TokenComparison:
    """Both counts and how far each side may be from the other."""

    engine: int
    ledger: int
    """Of the same time."""
    probes: int = 0
    more: int = 0
    """The engine may have so many more."""
    less: int = 0
    """Or so many less."""
    unread: int = 0
    """The ledger has these beyond what can be compared."""


def compare_counts(sides: TokenComparison) -> AuditState:
    """By numbers alone."""
    difference = sides.engine - sides.probes - sides.ledger
    if not -sides.less <= difference <= sides.more:
        return "wrong"
    return "equal" if difference == 0 and not sides.unread else "explained"


def audit_machine(machine: MachineDay) -> MachineAudit:
    """The verdict on one machine's day."""
    work, days = machine.work, machine.days
    tokens = sum(w.tokens for w in work)
    if not days:
        return MachineAudit(
            machine=machine.machine,
            state="unknown" if tokens else "equal",
            words=_unread(machine) if tokens else "nothing was asked of it",
            engine=None,
            probes=0,
            ledger=tokens,
            read=0,
            difference=None,
            requests=sum(w.requests for w in work),
        )
    bounds = tuple(_bounds(machine))
    sides = TokenComparison(
        engine=sum(d.prompt_tokens + d.completion_tokens for d in days),
        ledger=sum(w.read for w in work),
        probes=sum(n.amount for n in _read(machine, "probe")),
        more=sum(bound.more for bound in bounds),
        less=sum(bound.less for bound in bounds),
        unread=sum(w.unread for w in work),
    )
    found = compare_counts(sides)
    state: AuditState = "open" if not machine.judged and found == "wrong" else found
    counts = [d.requests for d in days if d.requests is not None]
    return MachineAudit(
        machine=machine.machine,
        state=state,
        words=_words(machine.machine, state, sides),
        engine=sides.engine,
        probes=sides.probes,
        ledger=tokens,
        read=sides.ledger,
        difference=sides.engine - sides.probes - sides.ledger,
        causes=tuple(bound.cause for bound in bounds),
        requests=sum(w.requests for w in work),
        engine_requests=sum(counts) if counts else None,
        generations=len({d.generation for d in days}),
        readings=sum(d.readings for d in days),
        resets=sum(d.resets for d in days),
        read_until=max(d.last_at for d in days),
    )


@dataclass(frozen=True, kw_only=True)
class _Bound:
    """A cause, and how far the engine's count may be above and below the ledger's because of it."""

    cause: Cause
    more: int = 0
    less: int = 0


def _bounds(machine: MachineDay) -> Iterator[_Bound]:
    work = machine.work
    if probes := [*_read(machine, "probe")]:
        yield _exactly("probes", sum(n.amount for n in probes), f"{len(probes)} probes of the waker")
    if unread := sum(w.unread for w in work):
        deaths = sum(n.kind == "death" for n in machine.notes)
        died = f", which died {deaths} times" if deaths else ""
        yield _exactly("unread", unread, f"ended when nobody read the engine{died}")
    if edges := sum(w.straddling for w in work):
        yield _at_most("edges", "of requests under way at the first or the last reading of the day", edges, edges)
    if resets := [n for n in machine.notes if n.kind == "reset"]:
        lost = sum(n.lost for n in resets)
        yield _at_most("resets", "done between an engine's last reading and its restart", 0, lost)
    yield from _of_requests(machine)
    if lost_probes := [*_read(machine, "lost_probe")]:
        yield _at_most("lost_probes", f"{len(lost_probes)} probes got no answer", len(lost_probes) * PROBE_TOKENS)
    if rounding := sum(d.rounding for d in machine.days):
        yield _at_most("rounding", "the engine prints six digits", rounding, rounding)


def _of_requests(machine: MachineDay) -> Iterator[_Bound]:
    """By what is known of each request: its prompt, what it was answered, and how long the engine may have worked."""
    work, pace = machine.work, _pace(machine.work)
    prompt = max((w.largest_prompt for w in work), default=0) or REQUEST_TOKENS
    if left := sum(w.uncertain for w in work):
        answered = sum(w.left_completion for w in work)
        most = sum(_most(pace, w.left_seconds, w.left_limited_seconds, w.left_limit) for w in work)
        more = max(0, most - answered)
        more += prompt * sum(w.left_unknown for w in work) + sum(w.left_bytes for w in work)
        less = answered + sum(w.left_prompt for w in work)
        words = f"{left} requests were left, lost or failed: the engine went on for a while, or did not count them"
        yield _at_most("left", words, more, less)
    if machine.moved:
        more = machine.moved_prompts
        more += _most(pace, machine.moved_seconds, machine.moved_limited_seconds, machine.moved_limit)
        words = f"{machine.moved} requests failed here before an answer and went to another machine"
        yield _at_most("failover", words, more)
    if choices := sum(w.choices for w in work):
        more = sum(w.choice_prompts for w in work)
        words = f"{choices} choices more than one a request: the engine counts the prompt of each"
        if all(d.requests is None for d in machine.days):  # llama.cpp, whose usage is of one choice alone
            more += sum(_most(pace, w.choice_seconds, w.choice_limited_seconds, w.choice_limit) for w in work)
            words = f"{choices} choices more than one a request: llama.cpp tells one"
        yield _at_most("choices", words, more)
    if crashed := sum(n.amount for n in machine.notes if n.kind == "crash"):
        largest = max([REQUEST_TOKENS, *(w.largest for w in work)])
        yield _at_most("gateway_crash", f"{crashed} requests were in flight at gateways that died", crashed * largest)


def _most(pace: float, seconds: float, limited_seconds: float, limit: float) -> int:
    """Tokens that an engine can have written: by the time alone, and no more than was asked where that is known."""
    return int(pace * seconds + min(limit, pace * limited_seconds))


def _pace(work: Sequence[GenerationUsage]) -> float:
    metrics_of = [w.pace for w in work if w.pace is not None]
    return min(FASTEST, PACE_MARGIN * max(metrics_of)) if metrics_of else FASTEST


def _read(machine: MachineDay, kind: str) -> Iterator[FleetEvent]:
    """The notes of this kind while the engine was read."""
    for note in machine.notes:
        if note.kind == kind and any(d.since < note.at <= d.last_at for d in machine.days):
            yield note


def _exactly(name: str, tokens: int, words: str) -> _Bound:
    return _Bound(cause=Cause(name=name, tokens=tokens, exact=True, words=words))


def _at_most(name: str, words: str, more: int, less: int = 0) -> _Bound:
    return _Bound(cause=Cause(name=name, tokens=max(more, less), exact=False, words=words), more=more, less=less)


def _unread(machine: MachineDay) -> str:
    why = f": {machine.fault}" if machine.fault else ": it was never awake at a reading"
    return f"its engine's counters were not read{why}"


def _words(machine: str, state: AuditState, sides: TokenComparison) -> str:
    difference = sides.engine - sides.probes - sides.ledger
    match state:
        case "equal":
            return "engine and ledger agree"
        case "explained":
            return f"apart by {difference:+}, within what is named"
        case "open":
            return f"apart by {difference:+} while work is under way: ask again"
        case _ if difference > 0:
            return (
                f"the engine counted {difference} tokens that are not in the ledger, more than what is named explains: "
                f"who asks {machine} without the gateway? Close its port to all but gateways and waker"
            )
        case _:
            return (
                f"the ledger has {-difference} tokens more than the engine counted: does another engine answer at the "
                f"endpoint of {machine}, or was it restarted by hand between two readings?"
            )
