"""The machines, tiers and prices of a past day: what the configuration said then. It cannot lose them afterwards."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from services.billing.core.utc_time import Window


class KnownFleet(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of machines and tiers, as the books keep it."""

    tiers: tuple[str, ...] = ()
    tier_of: dict[str, str] = {}
    machine_of: dict[str, str] = {}
    parts: tuple[str, ...] = ()
    never_billed: tuple[str, ...] = ()
    prices: dict[str, int] = {}
    """By tier, in units of money per machine and hour."""


class KeptFleet(NamedTuple):
    """What the configuration said from `since` (milliseconds) until it said something else."""

    since: int
    fleet: KnownFleet


class DayFleet(NamedTuple):
    """What holds for a day."""

    fleet: KnownFleet
    """What the configurations of the day said, of which the last one counts; what none of them said, today's does."""
    last: KnownFleet
    """The configuration at the end of the day."""
    later: frozenset[str]
    """Tiers of today that the day did not have."""


def fleet_of(window: Window, kept: Sequence[KeptFleet], current: KnownFleet, now: int) -> DayFleet:
    """`kept`, in order; the first one holds for all time before it too. From `now` on, the `current` one does."""
    entries = [*kept, KeptFleet(now, current)]
    first = max((number for number, entry in enumerate(entries) if entry.since <= window.start), default=0)
    in_force = [
        entry.fleet
        for number, entry in enumerate(entries)
        if number == first or window.start < entry.since < window.end
    ]
    sources = [current, *in_force]
    machines = {machine: fleet for fleet in sources for machine in fleet.tier_of}
    resources = {resource: fleet for fleet in sources for resource in fleet.machine_of}
    tiers = tuple(dict.fromkeys(tier for fleet in in_force for tier in fleet.tiers))
    combined = KnownFleet(
        tiers=tiers,
        tier_of={machine: fleet.tier_of[machine] for machine, fleet in machines.items()},
        machine_of={resource: fleet.machine_of[resource] for resource, fleet in resources.items()},
        parts=tuple(sorted(resource for resource, fleet in resources.items() if resource in fleet.parts)),
        never_billed=tuple(sorted(machine for machine, fleet in machines.items() if machine in fleet.never_billed)),
        prices={tier: price for fleet in sources for tier, price in fleet.prices.items()},
    )
    return DayFleet(combined, in_force[-1], frozenset(current.tiers) - set(tiers))
