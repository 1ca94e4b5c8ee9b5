"""What the status page says of each tier. What is not known is never shown as good."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from shared.messages.codec import rfc3339
from shared.messages.waker import REMOVED, MachineRecord, MachineState, Phase

KNOWN_S = 30.0
"""How old the fleet's view may be: the bus confirms it every 5 s. Beyond it, nothing is known."""
Condition = Literal["ready", "waking", "asleep", "closed", "unavailable", "not_known"]
WILL_SLEEP = ("asleep", "falling_asleep", "draining")

MEANINGS: Mapping[Condition, str] = {
    "ready": "Serves requests now.",
    "waking": "A machine is on its way; requests wait for it.",
    "asleep": "Sleeps; the next request wakes a machine.",
    "closed": "Takes no new requests.",
    "unavailable": "No machine can be woken at the moment.",
    "not_known": "Not known at the moment.",
}
GATE_WORDS: Mapping[str, str] = {
    "budget_closed": "The day's budget is spent; it opens at midnight UTC.",
    "billing_unobservable": "The day's spend cannot be observed, so nothing new is spent.",
    "closed_by_operator": "An operator closed it.",
}
OTHER_CLOSED = "It is closed."


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """How much of the fleet is known at the moment."""

    view_age_s: float
    """How long ago the view of the fleet was last known to be complete."""
    gates_age_s: float
    """The same of the budget gates."""
    has_leader: bool
    """Whether a waker leads: without one, nobody keeps the records true."""
    gateways: int
    """Gateways that have reported lately."""

    @property
    def fault(self) -> str | None:
        """Why the state of the fleet is not known, in words for everybody; None while it is."""
        if self.view_age_s > KNOWN_S:
            return "The state of the machines has not been confirmed lately."
        if not self.has_leader:
            return "Nobody reports the state of the machines at the moment."
        return None


class MachineCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many machines of a tier are in a state."""

    state: MachineState
    machines: int


class WakeUnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that is waking."""

    phase: Phase | None
    since: str
    eta_seconds: int | None
    """None: there is no history to tell it from."""


class TierStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One tier."""

    tier: str
    condition: Condition
    meaning: str
    since: str | None
    """When the first of its machines entered the state that `condition` is about; None: it is about none."""
    machines: tuple[MachineCount, ...] | None
    """None: not known."""
    wakes: tuple[WakeUnderWay, ...]
    gate: Literal["open", "closed", "not_known"]
    gate_reason: str | None


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All tiers, as of one moment."""

    as_of: str
    fault: str | None
    """Why nothing is known; None: all is."""
    gateways: int | None
    """Gateways that reported within the last seconds; None: not known."""
    tiers: tuple[TierStatus, ...]

    @property
    def summary(self) -> str:
        """One sentence for the first page."""
        if self.fault is not None:
            return self.fault
        counts = {name: sum(tier.condition == name for tier in self.tiers) for name in get_args(Condition)}
        words = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
        return f"Tiers: {', '.join(words)}." if words else "No tier is configured yet."


def fleet_status(
    tiers: Iterable[str],
    records: Mapping[str, MachineRecord],
    *,
    ages: Mapping[str, float],
    closed: Mapping[str, str | None],
    knowledge: Knowledge,
    now: float,
) -> FleetStatus:
    """Build the status.

    Args:
        ages: how many seconds ago each record was written, by machine.
        closed: why each tier's gate is closed, None: it is open.
    """
    fault = knowledge.fault
    by_tier: dict[str, list[MachineRecord]] = {name: [] for name in tiers}
    for record in (r for r in records.values() if r.alarm_reason != REMOVED):
        by_tier.setdefault(record.tier, []).append(record)
    has_gateways = knowledge.gateways > 0 and knowledge.view_age_s <= KNOWN_S
    if fault is None and not has_gateways:
        fault = "No gateway has reported within the last seconds, so it is not known whether requests are served."
    gates_known = knowledge.gates_age_s <= KNOWN_S
    return FleetStatus(
        as_of=rfc3339(now),
        fault=fault,
        gateways=knowledge.gateways if has_gateways else None,
        tiers=tuple(
            _tier(name, machines, ages, closed.get(name), is_known=fault is None, gate_known=gates_known)
            for name, machines in by_tier.items()
        ),
    )


def _tier(
    name: str,
    machines: Sequence[MachineRecord],
    ages: Mapping[str, float],
    closed: str | None,
    *,
    is_known: bool,
    gate_known: bool,
) -> TierStatus:
    condition = _condition(machines, closed) if is_known and gate_known else "not_known"
    counts = {state: sum(m.state == state for m in machines) for state in get_args(MachineState)}
    waking = sorted((m for m in machines if m.state == "waking"), key=lambda m: m.since)
    about = [m.since for m in machines if m.state == condition and not m.cordoned]
    return TierStatus(
        tier=name,
        condition=condition,
        meaning=MEANINGS[condition],
        since=rfc3339(min(about)) if about else None,
        machines=tuple(MachineCount(state=s, machines=n) for s, n in counts.items() if n) if is_known else None,
        wakes=tuple(_wake(m, ages.get(m.machine, 0.0)) for m in waking) if is_known else (),
        gate="not_known" if not gate_known else "open" if closed is None else "closed",
        gate_reason=GATE_WORDS.get(closed, OTHER_CLOSED) if gate_known and closed is not None else None,
    )


def _condition(machines: Sequence[MachineRecord], closed: str | None) -> Condition:
    usable = [m.state for m in machines if not m.cordoned]
    if closed is not None:
        return "closed"
    if "ready" in usable:
        return "ready"
    if "waking" in usable:
        return "waking"
    return "asleep" if any(state in WILL_SLEEP for state in usable) else "unavailable"


def _wake(record: MachineRecord, age_s: float) -> WakeUnderWay:
    """`ready_in` counts from when the record was written, so no two clocks are compared."""
    eta = None if record.ready_in is None else max(0, round(record.ready_in - age_s))
    return WakeUnderWay(phase=record.phase, since=rfc3339(record.since), eta_seconds=eta)
