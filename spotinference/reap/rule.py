"""Decides whether anybody speaks for a machine that its provider bills."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.messages.waker import MachineRecord


@dataclass(frozen=True, kw_only=True)
class FleetSigns:
    """What the bus shows at one moment."""

    is_led: bool
    """A waker holds the lease."""
    records: Mapping[str, MachineRecord] = field(default_factory=dict)
    """By machine."""
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Requests that gateways report, by machine."""


@dataclass(frozen=True)
class Limits:
    """How long nobody may speak for a machine that runs, in seconds."""

    after_s: float
    wake_cap_s: float


@dataclass(frozen=True)
class Verdict:
    """Nobody speaks for the machine: why, and how long that may last."""

    reason: str
    limit_s: float
    is_led: bool = False
    """A waker leads, and may be about to find the machine."""


def judge(machine: str, signs: FleetSigns | None, limits: Limits) -> Verdict | None:
    """Return why a machine that is billed should not be; None if somebody speaks for it. No signs: no bus."""
    if signs is None:
        return Verdict("the bus cannot be reached", limits.after_s)
    if signs.in_flight.get(machine, 0):
        return None
    if not signs.is_led:
        return Verdict("no waker leads", limits.after_s)
    record = signs.records.get(machine)
    if record is None:
        return Verdict("the waker does not know it", limits.wake_cap_s, is_led=True)
    if record.state in ("asleep", "gone"):
        return Verdict(f"the waker has it as {record.state}", limits.wake_cap_s, is_led=True)
    return None
