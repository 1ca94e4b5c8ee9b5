"""Engine, gateway and ledger of one day beside each other: what sets them apart, and whether that explains it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.meter.core.readings import EngineDay
from shared.messages.meter_audit import AuditState, Cause, MachineAudit

SKEW_SECONDS = 2.0
"""Between an engine's count and the gateway's end of the same request. A reading that takes longer is none: of which
moment it is could not be said."""
REQUEST_TOKENS = 2048
"""What a request that was left may have made the engine do, where the day has no larger one."""
PROBE_TOKENS = 64
"""The same for a probe whose answer did not come."""
SETTLED_SECONDS = 5.0
"""A reading is compared once the events of its time are in the ledger."""


@dataclass(frozen=True, kw_only=True)
class Work:
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
    choices: int = 0
    """Choices read beyond the first of each request."""
    largest: int = 0
    """The largest request's tokens."""


@dataclass(frozen=True, kw_only=True)
class Note:
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
class Machine:
    """All that is known of one machine's day."""

    machine: str
    days: Sequence[EngineDay]
    """One for each generation that was read."""
    work: Sequence[Work]
    notes: Sequence[Note]
    moved: int = 0
    """Requests that it had first and that went to another machine: the event is of that one."""
    fault: str = ""
    """Why its engine could not be read, the last time that it could not."""
    judged: bool = True
    """False: work is under way somewhere between engine and ledger."""


@dataclass(frozen=True, kw_only=True)
class Sides:
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


def judge(sides: Sides) -> AuditState:
    """By numbers alone."""
    difference = sides.engine - sides.probes - sides.ledger
    if not -sides.less <= difference <= sides.more:
        return "wrong"
    return "equal" if difference == 0 and not sides.unread else "explained"


def explain(machine: Machine) -> MachineAudit:
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
    causes = tuple(_causes(machine))
    sides = Sides(
        engine=sum(d.prompt_tokens + d.completion_tokens for d in days),
        ledger=sum(w.read for w in work),
        probes=sum(n.amount for n in _read(machine, "probe")),
        more=sum(c.tokens for c in causes if c.name in MORE),
        less=sum(c.tokens for c in causes if c.name in LESS),
        unread=sum(w.unread for w in work),
    )
    found = judge(sides)
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
        causes=causes,
        requests=sum(w.requests for w in work),
        engine_requests=sum(counts) if counts else None,
        generations=len({d.generation for d in days}),
        readings=sum(d.readings for d in days),
        resets=sum(d.resets for d in days),
        read_until=max(d.last_at for d in days),
    )


MORE = frozenset({"edges", "left", "failover", "choices", "gateway_crash", "lost_probes", "rounding"})
"""Causes for which the engine counts more than the ledger."""
LESS = frozenset({"edges", "resets", "left", "rounding"})
"""Causes for which it counts less."""


def _causes(machine: Machine) -> Iterator[Cause]:
    work = machine.work
    largest = max([REQUEST_TOKENS, *(w.largest for w in work)])
    if probes := [*_read(machine, "probe")]:
        yield _exactly("probes", sum(n.amount for n in probes), f"{len(probes)} probes of the waker")
    if unread := sum(w.unread for w in work):
        deaths = sum(n.kind == "death" for n in machine.notes)
        died = f", which died {deaths} times" if deaths else ""
        yield _exactly("unread", unread, f"ended when nobody read the engine{died}")
    if edges := sum(w.straddling for w in work):
        yield _at_most("edges", edges, "of requests under way at the first or the last reading of the day")
    if resets := [n for n in machine.notes if n.kind == "reset"]:
        yield _at_most("resets", sum(n.lost for n in resets), "done between an engine's last reading and its restart")
    requests = {
        "left": (sum(w.uncertain for w in work), "requests were left, lost or failed: the engine went on for a while"),
        "failover": (machine.moved, "requests failed here before an answer and went to another machine"),
        "choices": (sum(w.choices for w in work), "choices more than one a request: llama.cpp tells one"),
        "gateway_crash": (
            sum(n.amount for n in machine.notes if n.kind == "crash"),
            "requests were in flight at gateways that died",
        ),
    }
    for name, (number, words) in requests.items():
        if number:
            yield _at_most(name, number * largest, f"{number} {words}")
    if lost := [*_read(machine, "lost_probe")]:
        yield _at_most("lost_probes", len(lost) * PROBE_TOKENS, f"{len(lost)} probes got no answer")
    if rounding := sum(d.rounding for d in machine.days):
        yield _at_most("rounding", rounding, "the engine prints six digits")


def _read(machine: Machine, kind: str) -> Iterator[Note]:
    """The notes of this kind while the engine was read."""
    for note in machine.notes:
        if note.kind == kind and any(d.since < note.at <= d.last_at for d in machine.days):
            yield note


def _exactly(name: str, tokens: int, words: str) -> Cause:
    return Cause(name=name, tokens=tokens, exact=True, words=words)


def _at_most(name: str, tokens: int, words: str) -> Cause:
    return Cause(name=name, tokens=tokens, exact=False, words=words)


def _unread(machine: Machine) -> str:
    why = f": {machine.fault}" if machine.fault else ": it was never awake at a reading"
    return f"its engine's counters were not read{why}"


def _words(machine: str, state: AuditState, sides: Sides) -> str:
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
