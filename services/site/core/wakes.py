"""Wakes, folded from the fleet's journal. Whatever the order in which entries come, the same entries make one wake."""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.messages.budget import Journalled
from shared.messages.codec import Unreadable
from shared.messages.waker import PhaseEnded, Transition
from shared.units import Millis, to_millis

MOST_CHARACTERS = 512
"""Of a name or id, as a table keeps it."""


@dataclass(frozen=True, kw_only=True)
class WakeFact:
    """What one journal entry says of a wake: that a machine began or ceased to wake, or how long a phase took."""

    id: str
    """Of the entry: the same however often it is delivered."""
    wake_id: str
    machine: str
    tier: str
    at: Millis
    from_state: str = ""
    """Empty: first sight, or this is about a phase."""
    to_state: str = ""
    """Empty: this is about a phase."""
    key_id: str | None = None
    phase: str = ""
    """Empty: this is about a state."""
    seconds: float = 0.0
    done: bool = False

    @property
    def begins(self) -> bool:
        return self.to_state == "waking"

    @property
    def ends(self) -> bool:
        return self.from_state == "waking"


@dataclass(frozen=True, kw_only=True)
class Wake:
    """One attempt to get from asleep to ready, over all machines that it tried."""

    wake_id: str
    tier: str
    """Of the machine that became ready, else of the one that was tried last."""
    machine: str
    key_id: str | None
    """The key whose request caused it; None: nobody's."""
    began_at: Millis | None
    """None: the journal does not have its beginning."""
    ended_at: Millis | None
    """When a machine was ready, or the last one was given up; None: one is under way."""
    outcome: str
    """`ready`, `not_ready` (every machine was given up so far) or `under_way`."""
    was_asleep: bool
    """False: it began with a machine that was found running, or broken."""
    failed_phase: str
    """The phase in which the last machine was given up; empty: unknown, or it became ready."""
    attempts: int
    """How often a machine began to wake."""


@dataclass(frozen=True, kw_only=True)
class ShownWake:
    """A wake as the person sees it whose key caused it."""

    key_name: str
    tier: str
    began_at: float
    """Unix seconds."""
    outcome: str
    """`ready`, `failed` or `under way`."""
    seconds: float | None
    """Until a machine was ready; None: none was."""


def shown_wake(wake: Wake, key_name: str, *, cap_s: float, now: float) -> ShownWake:
    """Until its cap a wake may be tried again, so it has not failed yet."""
    began_at = (wake.began_at or 0) / 1000
    is_ready = wake.outcome == "ready" and wake.ended_at is not None
    is_over = now >= began_at + cap_s
    return ShownWake(
        key_name=key_name,
        tier=wake.tier,
        began_at=began_at,
        outcome="ready" if is_ready else "failed" if is_over else "under way",
        seconds=max(0.0, (wake.ended_at or 0) / 1000 - began_at) if is_ready else None,
    )


def fact_of(entry: Journalled, entry_id: str) -> WakeFact | None:
    """Return what an entry says of a wake; None: nothing. Raises `Unreadable` for what no table can hold."""
    if isinstance(entry, Transition) and entry.wake_id and "waking" in (entry.from_state, entry.to_state):
        fact = WakeFact(
            id=entry_id,
            wake_id=entry.wake_id,
            machine=entry.machine,
            tier=entry.tier,
            at=to_millis(entry.at),
            from_state=entry.from_state or "",
            to_state=entry.to_state,
            key_id=entry.key_id,
        )
    elif isinstance(entry, PhaseEnded) and entry.wake_id:
        fact = WakeFact(
            id=entry_id,
            wake_id=entry.wake_id,
            machine=entry.machine,
            tier=entry.tier,
            at=to_millis(entry.at),
            phase=entry.phase,
            seconds=entry.seconds,
            done=entry.done,
        )
    else:
        return None
    for text in (fact.wake_id, fact.machine, fact.tier, fact.key_id or ""):
        if "\0" in text or len(text) > MOST_CHARACTERS:
            raise Unreadable(f"a name in it has a NUL or more than {MOST_CHARACTERS} characters")
    return fact


def fold(wake_id: str, facts: Iterable[WakeFact]) -> Wake:
    """Return the wake that its facts make."""
    ordered = sorted(facts, key=lambda fact: (fact.at, fact.ends, fact.id))
    begun = [fact for fact in ordered if fact.begins]
    ended = [fact for fact in ordered if fact.ends]
    ready = next((fact for fact in ended if fact.to_state == "ready"), None)
    is_under_way = ready is None and any(_last(ordered, machine).begins for machine in {fact.machine for fact in begun})
    last = ready or (begun or ended or ordered)[-1]
    failed_phases = [fact.phase for fact in ordered if fact.phase and not fact.done]
    return Wake(
        wake_id=wake_id,
        tier=last.tier,
        machine=last.machine,
        key_id=next((fact.key_id for fact in begun if fact.key_id), None),
        began_at=begun[0].at if begun else None,
        ended_at=ready.at if ready else None if is_under_way or not ended else ended[-1].at,
        outcome="ready" if ready else "not_ready" if ended and not is_under_way else "under_way",
        was_asleep=bool(begun) and begun[0].from_state == "asleep",
        failed_phase="" if ready or not failed_phases else failed_phases[-1],
        attempts=len(begun),
    )


def _last(facts: Iterable[WakeFact], machine: str) -> WakeFact:
    """Return the machine's newest change of state."""
    return [fact for fact in facts if fact.machine == machine and not fact.phase][-1]
