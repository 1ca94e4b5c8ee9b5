"""A machine's cost from its provider's running bill: each reading less the one before, spread over UTC hours."""

from dataclasses import dataclass

from services.billing.core.allocation.machine_time import MachineTime
from services.billing.core.money import split_exactly
from services.billing.core.utc_time import Window
from shared.units import HOUR_MS


@dataclass(frozen=True)
class BillReading:
    """All that a bill says of a machine so far, in units of money, at a moment in milliseconds."""

    cumulative: int
    at: int


@dataclass(frozen=True)
class Accrual:
    """What a machine has cost within a UTC hour, between two moments in it. `amount` in units of money."""

    machine: str
    hour: int
    """Its beginning."""
    amount: int
    since: int
    through: int


def has_fallen(before: BillReading, after: BillReading) -> bool:
    return after.cumulative < before.cumulative


def is_stale(before: BillReading, after: BillReading) -> bool:
    """It was made before the one that is on record, and says less: it counts for nothing."""
    return has_fallen(before, after) and after.at <= before.at


def accrue(machine: str, before: BillReading, after: BillReading, time: MachineTime) -> list[Accrual]:
    """The rise between two readings, hour by hour, by the machine's billable time, else by all of it.

    They sum to exactly that. A bill that fell is a new one: all of it counts.
    """
    rise = after.cumulative if has_fallen(before, after) else after.cumulative - before.cumulative
    if after.at <= before.at:  # the clock was set back
        return [Accrual(machine, after.at - after.at % HOUR_MS, rise, after.at, after.at)]
    gap = Window(before.at, after.at)
    parts = [
        gap.overlap(Window(hour, hour + HOUR_MS)) for hour in range(gap.start - gap.start % HOUR_MS, gap.end, HOUR_MS)
    ]
    weights = [time.use(part).billable for part in parts]
    amounts = split_exactly(rise, weights if any(weights) else [part.length for part in parts])
    return [
        Accrual(machine, part.start - part.start % HOUR_MS, amount, part.start, part.end)
        for part, amount in zip(parts, amounts, strict=True)
    ]
