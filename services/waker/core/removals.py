"""Machines that have left the configuration: their last transition, and what an operator has to know of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from services.waker.core.events import Effect, Forget, Journal, Write
from services.waker.core.policy import in_flight
from services.waker.core.state import Fleet
from shared.messages.waker import REMOVED, MachineRecord, MachineState, Transition
from shared.units import DAY_S

REASON = "removed from the configuration"
REMEMBER_S = float(DAY_S)
"""How long the alarm about a machine that may still run stays. After that its bill shows whether it does."""
_OFF: tuple[MachineState, ...] = ("asleep", "gone")


@dataclass(frozen=True)
class Removals:
    """What follows from the records of machines that are not configured."""

    journal: list[Effect] = field(default_factory=list)
    writes: list[Effect] = field(default_factory=list)
    remembered: dict[str, float] = field(default_factory=dict)
    """Machines that may still run, each with the time at which its record is to be deleted."""


def settle(records: Mapping[str, MachineRecord], now: float) -> Removals:
    """End the journal of each of these machines with `gone`: the waker does not know what becomes of it.

    A machine that was off is forgotten. Of one that may still run, a record stays with an alarm.
    """
    removals = Removals()
    for name, record in records.items():
        if record.alarm_reason == REMOVED:
            removals.remembered[name] = min(record.since, now) + REMEMBER_S
            continue
        if not record.tier:  # an orphan, which its provider shows again if it is still there
            removals.writes.append(Forget(name))
            continue
        if record.state != "gone":
            removals.journal.append(Journal(_transition(record, now)))
        if record.state in _OFF:
            removals.writes.append(Forget(name))
        else:
            removals.writes.append(Write(_record(record, now)))
            removals.remembered[name] = now + REMEMBER_S
    return removals


def may_run(record: MachineRecord) -> bool:
    """Whether a machine with this record may be billed although nobody manages it any more."""
    return bool(record.tier) and record.state not in _OFF


def is_removed_released(fleet: Fleet, now: float) -> bool:
    """Whether no gateway reports requests on a machine that was removed from the configuration."""
    if not fleet.removed:
        return True
    is_known = now - fleet.leading_since >= fleet.spec.gateway_timeout_s
    return is_known and not any(in_flight(fleet, name) for name in fleet.removed)


def _transition(record: MachineRecord, now: float) -> Transition:
    return Transition(
        at=max(record.since, now),
        machine=record.machine,
        tier=record.tier,
        from_state=record.state,
        to_state="gone",
        reason=REASON,
        generation=record.generation,
        wake_id=record.wake_id,
        key_id=record.key_id,
    )


def _record(record: MachineRecord, now: float) -> MachineRecord:
    return msgspec.structs.replace(
        record,
        state="gone",
        endpoint=None,
        since=now,
        reason=REASON,
        wake_id=None,
        phase=None,
        ready_at=None,
        ready_in=None,
        kept=False,
        cordoned=False,
        alarm=(
            f"it was {record.state} when it was removed from the configuration, and may still run and be billed: "
            "stop it at its provider, or configure it again"
        ),
        alarm_reason=REMOVED,
    )
