"""Compares an engine with the ledger for one day: what may cause a difference, and whether that explains it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.meter.core.engine_readings import EngineDay
from services.meter.core.fleet_event import FleetEvent, FleetEventKind
from shared.messages.meter_audit import AuditState, Cause, MachineAudit

SKEW_SECONDS = 2.0
"""Between an engine's count of a request and the gateway's. A reading that takes longer is discarded, as its moment
would be unknown."""
REQUEST_TOKENS = 2048
"""Tokens assumed for a request or a prompt of which nothing is known, unless the day has a larger one."""
FASTEST = 1000.0
"""Tokens per second of one answer: more than any engine writes; for a day without a complete stream to measure."""
PACE_MARGIN = 2.0
"""How much faster a request may have been answered than the day's fastest complete stream on its machine."""
PROBE_TOKENS = 64
"""Tokens assumed for a probe whose answer did not arrive."""
SETTLED_SECONDS = 5.0
"""How long after a reading the ledger has the events of its time, so that they can be compared."""


@dataclass(frozen=True, kw_only=True)
class GenerationUsage:
    """What the ledger has of one generation of a machine; tokens include prompt and completion."""

    machine: str
    generation: int
    requests: int = 0
    """The day's requests."""
    tokens: int = 0
    """The tokens of the day's requests."""
    read: int = 0
    """Tokens of requests that ended between the engine's readings."""
    straddling: int = 0
    """Tokens of requests that were running when the count began, or at the last reading."""
    unread: int = 0
    """Tokens of the day's requests that ended outside the readings."""
    uncertain: int = 0
    """Requests that the engine may count differently: abandoned, lost, failed inside, or counted by the gateway."""
    left_prompt: int = 0
    """Their prompt tokens, as far as they are known."""
    left_completion: int = 0
    """Their completion tokens."""
    left_unknown: int = 0
    """How many of their prompts, one for each choice, are unknown, as is the length of the body."""
    left_bytes: int = 0
    """Bytes of the bodies with the other unknown prompts, once for each choice: a token takes at least a byte."""
    left_seconds: float = 0.0
    """Seconds that the engine may have worked on those without a limit on their answers, for each choice."""
    left_limited_seconds: float = 0.0
    """Seconds that it may have worked on those with such a limit."""
    left_limit: float = 0.0
    """Tokens to which these limited all their answers."""
    choices: int = 0
    """Choices beyond the first of each request."""
    choice_prompts: int = 0
    """The prompt tokens of these choices: vLLM counts a prompt once for each."""
    choice_seconds: float = 0.0
    """Seconds that the engine may have worked on these choices; `left_seconds` has those of abandoned requests."""
    choice_limited_seconds: float = 0.0
    choice_limit: float = 0.0
    largest: int = 0
    """The largest request's tokens."""
    largest_prompt: int = 0
    pace: float | None = None
    """Tokens per second of the fastest complete stream; None: there is none."""


@dataclass(frozen=True, kw_only=True)
class MachineDay:
    """Everything known about one machine's day."""

    machine: str
    days: Sequence[EngineDay]
    """One for each generation with readings."""
    usage: Sequence[GenerationUsage]
    events: Sequence[FleetEvent]
    moved: int = 0
    """Requests that failed over to another machine, to which their events belong."""
    moved_prompts: int = 0
    """Their prompt tokens, or the bytes of their bodies if these are unknown, for each choice."""
    moved_seconds: float = 0.0
    """As `left_seconds` and the next two of `GenerationUsage`."""
    moved_limited_seconds: float = 0.0
    moved_limit: float = 0.0
    scrape_error: str | None = None
    """Why the last failed reading of its engine failed; None: none failed."""
    is_settled: bool = True
    """False: requests are in flight somewhere between engine and ledger."""


@dataclass(frozen=True, kw_only=True)
class TokenComparison:
    """Both counts of tokens and how far each may be from the other."""

    engine: int
    ledger: int
    """Tokens of the same time."""
    probes: int = 0
    more: int = 0
    """The engine may have this many more."""
    less: int = 0
    """The engine may have this many less."""
    unread: int = 0
    """The ledger has these in addition to what can be compared."""


def compare_counts(sides: TokenComparison) -> AuditState:
    """Return the state that follows from the numbers alone."""
    difference = sides.engine - sides.probes - sides.ledger
    if not -sides.less <= difference <= sides.more:
        return "wrong"
    return "equal" if difference == 0 and not sides.unread else "explained"


def audit_machine(machine: MachineDay) -> MachineAudit:
    """Audit one machine's day."""
    usage, days = machine.usage, machine.days
    tokens = sum(u.tokens for u in usage)
    if not days:
        return MachineAudit(
            machine=machine.machine,
            state="unknown" if tokens else "equal",
            words=_unread_words(machine) if tokens else "it served nothing",
            engine=None,
            probes=0,
            ledger=tokens,
            read=0,
            difference=None,
            requests=sum(u.requests for u in usage),
        )
    bounds = tuple(_bounds(machine))
    sides = TokenComparison(
        engine=sum(d.prompt_tokens + d.completion_tokens for d in days),
        ledger=sum(u.read for u in usage),
        probes=sum(e.amount for e in _events_while_read(machine, FleetEventKind.PROBE)),
        more=sum(bound.more for bound in bounds),
        less=sum(bound.less for bound in bounds),
        unread=sum(u.unread for u in usage),
    )
    compared = compare_counts(sides)
    state: AuditState = "open" if not machine.is_settled and compared == "wrong" else compared
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
        requests=sum(u.requests for u in usage),
        engine_requests=sum(counts) if counts else None,
        generations=len({d.generation for d in days}),
        readings=sum(d.readings for d in days),
        resets=sum(d.resets for d in days),
        read_until=max(d.last_at for d in days),
    )


@dataclass(frozen=True, kw_only=True)
class _Bound:
    """A cause, and by how many tokens it may raise or lower the engine's count against the ledger's."""

    cause: Cause
    more: int = 0
    less: int = 0


def _bounds(machine: MachineDay) -> Iterator[_Bound]:
    usage = machine.usage
    if probes := [*_events_while_read(machine, FleetEventKind.PROBE)]:
        yield _exact_bound("probes", sum(e.amount for e in probes), f"{len(probes)} probes by the waker")
    if unread := sum(u.unread for u in usage):
        deaths = sum(e.kind == FleetEventKind.DEATH for e in machine.events)
        died = f", which died {deaths} times" if deaths else ""
        yield _exact_bound("unread", unread, f"tokens of requests that ended outside the engine's readings{died}")
    if edges := sum(u.straddling for u in usage):
        yield _upper_bound(
            "edges", "tokens of requests that were running at the first or the last reading of the day", edges, edges
        )
    if resets := [e for e in machine.events if e.kind == FleetEventKind.RESET]:
        lost = sum(e.lost for e in resets)
        yield _upper_bound("resets", "tokens counted between an engine's last reading and its restart", 0, lost)
    yield from _request_bounds(machine)
    if lost_probes := [*_events_while_read(machine, FleetEventKind.LOST_PROBE)]:
        yield _upper_bound("lost_probes", f"{len(lost_probes)} probes got no answer", len(lost_probes) * PROBE_TOKENS)
    if rounding := sum(d.rounding for d in machine.days):
        yield _upper_bound("rounding", "the engine prints six significant digits", rounding, rounding)


def _request_bounds(machine: MachineDay) -> Iterator[_Bound]:
    """Bound by what is known of each request: its prompt, its answer, and how long the engine may have worked on it."""
    usage, pace = machine.usage, _pace(machine.usage)
    prompt = max((u.largest_prompt for u in usage), default=0) or REQUEST_TOKENS
    if left := sum(u.uncertain for u in usage):
        answered = sum(u.left_completion for u in usage)
        most = sum(_max_tokens(pace, u.left_seconds, u.left_limited_seconds, u.left_limit) for u in usage)
        more = max(0, most - answered)
        more += prompt * sum(u.left_unknown for u in usage) + sum(u.left_bytes for u in usage)
        less = answered + sum(u.left_prompt for u in usage)
        words = f"{left} requests were abandoned, lost or failed: the engine went on for a while, or did not count them"
        yield _upper_bound("left", words, more, less)
    if machine.moved:
        more = machine.moved_prompts
        more += _max_tokens(pace, machine.moved_seconds, machine.moved_limited_seconds, machine.moved_limit)
        words = f"{machine.moved} requests failed here before an answer and failed over to another machine"
        yield _upper_bound("failover", words, more)
    if choices := sum(u.choices for u in usage):
        more = sum(u.choice_prompts for u in usage)
        words = f"{choices} choices beyond one per request: the engine counts the prompt of each"
        if all(d.requests is None for d in machine.days):  # llama.cpp, whose usage is of one choice alone
            more += sum(_max_tokens(pace, u.choice_seconds, u.choice_limited_seconds, u.choice_limit) for u in usage)
            words = f"{choices} choices beyond one per request: llama.cpp reports one"
        yield _upper_bound("choices", words, more)
    if crashed := sum(e.amount for e in machine.events if e.kind == FleetEventKind.CRASH):
        largest = max([REQUEST_TOKENS, *(u.largest for u in usage)])
        yield _upper_bound(
            "gateway_crash", f"{crashed} requests were in flight at gateways that died", crashed * largest
        )


def _max_tokens(pace: float, seconds: float, limited_seconds: float, limit: float) -> int:
    """Return how many tokens an engine can have written: by the time alone, and within the limit if there is one."""
    return int(pace * seconds + min(limit, pace * limited_seconds))


def _pace(usage: Sequence[GenerationUsage]) -> float:
    metrics_of = [u.pace for u in usage if u.pace is not None]
    return min(FASTEST, PACE_MARGIN * max(metrics_of)) if metrics_of else FASTEST


def _events_while_read(machine: MachineDay, kind: FleetEventKind) -> Iterator[FleetEvent]:
    """Yield the events of this kind between the engine's readings."""
    for event in machine.events:
        if event.kind == kind and any(d.since < event.at <= d.last_at for d in machine.days):
            yield event


def _exact_bound(name: str, tokens: int, words: str) -> _Bound:
    return _Bound(cause=Cause(name=name, tokens=tokens, exact=True, words=words))


def _upper_bound(name: str, words: str, more: int, less: int = 0) -> _Bound:
    return _Bound(cause=Cause(name=name, tokens=max(more, less), exact=False, words=words), more=more, less=less)


def _unread_words(machine: MachineDay) -> str:
    return f"its engine's counters were not read: {machine.scrape_error or 'it was never awake at a reading'}"


def _words(machine: str, state: AuditState, sides: TokenComparison) -> str:
    difference = sides.engine - sides.probes - sides.ledger
    match state:
        case "equal":
            return "engine and ledger agree"
        case "explained":
            return f"they differ by {difference:+} tokens, which the causes explain"
        case "open":
            return f"they differ by {difference:+} tokens while requests are in flight: ask again"
        case _ if difference > 0:
            return (
                f"the engine counted {difference} tokens that are not in the ledger, more than the causes explain: "
                f"does a client bypass the gateway? Close the port of {machine} to all but gateways and waker"
            )
        case _:
            return (
                f"the ledger has {-difference} tokens more than the engine counted: does another engine answer at the "
                f"endpoint of {machine}, or was it restarted by hand between two readings?"
            )
