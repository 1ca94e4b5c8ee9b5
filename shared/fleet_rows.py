"""The machines as rows, as the command and the site show them. Pure: `fleet_watcher` reads the bus."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from shared.messages.codec import rfc3339
from shared.messages.gateway import Activity
from shared.messages.waker import MachineRecord, MachineState, Phase


@dataclass(frozen=True, kw_only=True)
class MachineUse:
    """The use of a machine by all gateways together."""

    in_flight: int = 0
    last_used_at: float = 0.0
    """Unix seconds; 0: not since the gateways started."""


class MachineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as `fleet --json` prints it. Times are RFC 3339, durations whole seconds."""

    id: str
    tier: str
    state: MachineState
    provider_state: str
    endpoint: str | None
    phase: Phase | None
    eta_seconds: int | None
    """None: it is not waking, or its ETA is unknown."""
    in_flight: int
    since: str
    idle_seconds: int | None
    """Since its last use, or since it became ready if that was later; None: it is in use, or not ready."""
    kept: bool
    cordoned: bool
    reason: str
    wake_id: str | None
    generation: int
    alarm: str
    failed_wakes: int
    """Consecutive wakes in which its engine did not become ready; `reason` says why the last one failed."""
    max_model_len: int | None
    """The longest context in tokens; None: its engine did not report it."""
    state_seconds: int
    """Since `since`."""


CLOCK_FIELDS = ("eta_seconds", "idle_seconds", "state_seconds")
"""Fields that change with the clock alone."""


def sum_use(activities: Iterable[Activity]) -> dict[str, MachineUse]:
    """Add up the gateways' newest activity reports, per machine."""
    uses: dict[str, MachineUse] = {}
    for activity in activities:
        for machine, part in activity.machines.items():
            use = uses.get(machine, MachineUse())
            uses[machine] = MachineUse(
                in_flight=use.in_flight + part.in_flight,
                last_used_at=max(use.last_used_at, part.last_used_at or 0.0),
            )
    return uses


def machine_rows(records: Iterable[MachineRecord], uses: Mapping[str, MachineUse], now: float) -> list[MachineRow]:
    """Return one row per machine, ordered by id. `now` is in Unix seconds."""
    return [_row(r, uses.get(r.machine, MachineUse()), now) for r in sorted(records, key=lambda r: r.machine)]


def _row(record: MachineRecord, use: MachineUse, now: float) -> MachineRow:
    idle = record.state == "ready" and use.in_flight == 0
    return MachineRow(
        id=record.machine,
        tier=record.tier,
        state=record.state,
        provider_state=record.provider_state,
        endpoint=record.endpoint,
        phase=record.phase,
        eta_seconds=None if record.ready_at is None else max(0, round(record.ready_at - now)),
        in_flight=use.in_flight,
        since=rfc3339(record.since),
        idle_seconds=max(0, round(now - max(record.since, use.last_used_at))) if idle else None,
        kept=record.kept,
        cordoned=record.cordoned,
        reason=record.reason,
        wake_id=record.wake_id,
        generation=record.generation,
        alarm=record.alarm,
        failed_wakes=record.failed_wakes,
        max_model_len=record.max_model_len,
        state_seconds=max(0, round(now - record.since)),
    )


def without_clock_fields(rows: Sequence[MachineRow]) -> list[MachineRow]:
    """Return the rows without `CLOCK_FIELDS`, to compare two states of the fleet."""
    return [msgspec.structs.replace(row, eta_seconds=None, idle_seconds=None, state_seconds=0) for row in rows]
