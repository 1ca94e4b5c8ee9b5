"""The hours that a machine was billed for on a day, beside those that the journal knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tests.books_proof.amounts import Amount, spread
from tests.books_proof.facts import HOUR, Charge, Machine
from tests.books_proof.machine_time import UNKNOWN, Doing, running
from tests.books_proof.oracle import UNEXPLAINED, DayFigures


@dataclass(frozen=True)
class Hours:
    """Of one machine and day, in hours; `spend` is what of its charges for use is unexplained."""

    billed: Fraction | None
    known: Fraction
    unexplained: Fraction
    asleep: Fraction
    spend: Amount


def hours_of(day: DayFigures) -> dict[str, Hours]:
    """Of each machine with charges for its use."""
    machines = day.books.world.machines
    return {machine.id: _hours(day, machine, rows) for machine in machines if (rows := day.usage(machine))}


def _hours(day: DayFigures, machine: Machine, rows: Sequence[Charge]) -> Hours:
    """Charges for the same time are for the same hours. One that counts none is for the time awake, else for all."""
    time = day.books.time[machine.id]
    windows: dict[tuple[int, int], list[Fraction]] = {}
    spend = Amount()
    for row in rows:
        start, end = max(row.start, day.start), min(row.end, day.end)
        counted = windows.setdefault((start, end), [])
        counted += [] if row.hours is None else [row.hours * (end - start) / (row.end - row.start)]
        spend += spread(day.amount(row, row.billed), day.weights(row, machine)).get(UNEXPLAINED, Amount())
    billed = unexplained = asleep = Fraction(0)
    for (start, end), counted in windows.items():
        times = time.times(start, end)
        known = sum(running(times).values(), Fraction(0)) / HOUR
        hours = max(counted) if counted else known or Fraction(end - start, HOUR)
        billed += hours
        unexplained += max(hours - known, Fraction(0))
        asleep += max(hours - known - times.get(Doing(UNKNOWN), Fraction(0)) / HOUR, Fraction(0))
    return Hours(
        billed=billed if any(windows.values()) else None,
        known=time.billable(day.start, day.end) / HOUR,
        unexplained=unexplained,
        asleep=asleep,
        spend=spend,
    )
