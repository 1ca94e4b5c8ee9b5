"""A running bill's readings: whatever they are and whenever, their parts sum to what the bill says in the end."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.billing.core.allocation.accrual import BillReading, accrue, has_fallen, is_stale
from services.billing.core.allocation.machine_time import MachineTime, StateChange, build_intervals
from shared.units import DAY_MS, HOUR_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW

NO_JOURNAL = MachineTime()
START = DAY_WINDOW.start
STATES = st.sampled_from(["asleep", "waking", "ready", "falling_asleep"])
READINGS = st.lists(st.tuples(st.integers(0, 10**15), st.integers(1, 40 * HOUR_MS)), min_size=2, max_size=12)
CHANGES = st.lists(st.tuples(st.integers(0, 3 * DAY_MS), STATES), max_size=8)


def journal(*changes: tuple[int, str], now: int = START + 3 * DAY_MS) -> MachineTime:
    return MachineTime(build_intervals([StateChange(START + at, state) for at, state in changes], now))  # type: ignore[arg-type]  # states as literals


def reading(amount: int, hour: float) -> BillReading:
    """At an hour of the test's day."""
    return BillReading(amount, START + round(hour * HOUR_MS))


def parts(
    before: tuple[int, float], after: tuple[int, float], time: MachineTime = NO_JOURNAL
) -> list[tuple[float, int]]:
    """Of two readings, amounts by hours."""
    return [
        ((part.hour - START) / HOUR_MS, part.amount) for part in accrue("m", reading(*before), reading(*after), time)
    ]


@given(READINGS, CHANGES)
@settings(max_examples=200, deadline=None)
def test_parts_sum_to_the_last_total_of_every_bill(
    steps: list[tuple[int, int]], changes: list[tuple[int, str]]
) -> None:
    at, readings = START, []
    for amount, pause in steps:
        at += pause
        readings.append(BillReading(amount, at))
    time = journal(*sorted(changes, key=lambda c: c[0]), now=at)
    every = [part for before, after in pairwise(readings) for part in accrue("m", before, after, time)]
    ends = [before.cumulative for before, after in pairwise(readings) if has_fallen(before, after)]
    assert sum(part.amount for part in every) == sum(ends) + readings[-1].cumulative - readings[0].cumulative
    assert all(part.amount >= 0 for part in every)
    assert all(part.hour <= part.since < part.through <= part.hour + HOUR_MS for part in every)
    assert sum(part.through - part.since for part in every) == readings[-1].at - readings[0].at, "each moment once"


def test_a_rise_within_an_hour_is_that_hours() -> None:
    assert parts((100, 3.2), (160, 3.9)) == [(3, 60)]


def test_a_gap_of_hours_is_spread_over_the_time_without_a_journal() -> None:
    assert parts((0, 1.5), (100, 4)) == [(1, 20), (2, 40), (3, 40)]


def test_a_gap_of_hours_is_spread_over_the_billable_time() -> None:
    time = journal(
        (0, "asleep"), (2 * HOUR_MS, "waking"), (2 * HOUR_MS + HOUR_MS // 2, "ready"), (3 * HOUR_MS, "asleep")
    )
    assert parts((0, 0), (100, 5), time) == [(0, 0), (1, 0), (2, 100), (3, 0), (4, 0)]


def test_a_machine_that_slept_all_the_gap_pays_its_disk_over_the_time() -> None:
    assert parts((0, 0), (10, 2), journal((0, "asleep"))) == [(0, 5), (1, 5)]


def test_a_gap_over_midnight_has_a_part_on_each_day() -> None:
    assert parts((0, 23.5), (60, 24.5)) == [(23, 30), (24, 30)]


def test_a_bill_that_fell_is_a_new_one() -> None:
    assert parts((900, 1.1), (50, 1.2)) == [(1, 50)]


@pytest.mark.parametrize(
    ("now", "too_late"), [((99, 1.0), True), ((99, 0.9), True), ((99, 1.1), False), ((100, 0.9), False)]
)
def test_older_reading_that_comes_late_is_ignored(now: tuple[int, float], *, too_late: bool) -> None:
    assert is_stale(reading(100, 1.0), reading(*now)) is too_late


def test_a_clock_that_was_set_back_loses_no_rise() -> None:
    assert parts((100, 5.5), (130, 3.5)) == [(3, 30)]
