"""Runs of arrived numbers against the plain set of them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.sequence_ranges import (
    Gap,
    SeqRange,
    gaps_between,
    high_water_mark,
    merge_ranges,
    single_range,
    subtract_lost,
)
from shared.units import DAY_S

numbers = st.lists(st.integers(1, 40), max_size=60)


def members(runs: tuple[SeqRange, ...]) -> set[int]:
    return {n for run in runs for n in range(run.first, run.last + 1)}


@given(numbers, st.integers(1, 7))
def test_any_order_repetition_and_grouping_gives_the_same_runs(arrived: list[int], step: int) -> None:
    runs: tuple[SeqRange, ...] = ()
    for start in range(0, len(arrived), step):
        runs = merge_ranges([*runs, *(single_range(n, float(n)) for n in arrived[start : start + step])])
    assert runs == merge_ranges(single_range(n, float(n)) for n in set(arrived))
    assert members(runs) == set(arrived)
    assert all(a.last + 1 < b.first for a, b in pairwise(runs)), "as few as there can be"
    assert all((run.first_at, run.last_at) == (run.first, run.last) for run in runs)


@given(numbers)
def test_the_mark_is_the_last_before_the_first_missing_one(arrived: list[int]) -> None:
    runs = merge_ranges(single_range(n, 0.0) for n in arrived)
    assert high_water_mark(runs) == next(n for n in range(42) if n + 1 not in arrived)


@given(numbers)
def test_gaps_are_what_is_missing_below_the_last(arrived: list[int]) -> None:
    found = gaps_between(merge_ranges(single_range(n, float(n)) for n in arrived))
    assert sum(gap.missing for gap in found) == len(set(range(1, max(arrived, default=0))) - set(arrived))


def test_a_gap_lies_between_the_completions_around_it() -> None:
    runs = merge_ranges([single_range(1, 100.0), single_range(4, 130.0), single_range(5, 140.0)])
    assert gaps_between(runs) == (Gap(first=2, last=3, earliest=100.0, latest=130.0),)
    assert gaps_between(runs[1:]) == (Gap(first=1, last=3, earliest=130.0 - DAY_S, latest=130.0),)


def test_a_gap_beside_a_wrong_clock_lies_on_all_days_between_the_completions_around_it() -> None:
    runs = merge_ranges([single_range(1, 3 * DAY_S), single_range(3, 100.0)])
    assert gaps_between(runs) == (Gap(first=2, last=2, earliest=100.0, latest=3 * DAY_S),)


@given(numbers, st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10)), max_size=5))
def test_what_is_declared_lost_is_no_longer_missing(arrived: list[int], lost: list[tuple[int, int]]) -> None:
    given_up = [(first, first + more) for first, more in lost]
    found = gaps_between(merge_ranges(single_range(n, float(n)) for n in arrived))
    left = subtract_lost(found, given_up)
    numbers_left = [n for gap in left for n in range(gap.first, gap.last + 1)]
    missing = set(range(1, max(arrived, default=0))) - set(arrived)
    assert numbers_left == sorted(missing - {n for first, last in given_up for n in range(first, last + 1)})
    assert all(
        any(g.first <= gap.first <= gap.last <= g.last and g.latest == gap.latest for g in found) for gap in left
    )
