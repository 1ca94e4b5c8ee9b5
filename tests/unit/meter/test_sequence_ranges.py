"""Ranges of arrived numbers, compared with the plain set of them."""

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


def members(ranges: tuple[SeqRange, ...]) -> set[int]:
    return {n for item in ranges for n in range(item.first, item.last + 1)}


@given(numbers, st.integers(1, 7))
def test_ranges_are_the_same_in_any_order_repetition_and_grouping(arrived: list[int], step: int) -> None:
    ranges: tuple[SeqRange, ...] = ()
    for start in range(0, len(arrived), step):
        ranges = merge_ranges([*ranges, *(single_range(n, float(n)) for n in arrived[start : start + step])])
    assert ranges == merge_ranges(single_range(n, float(n)) for n in set(arrived))
    assert members(ranges) == set(arrived)
    assert all(a.last + 1 < b.first for a, b in pairwise(ranges)), "as few as there can be"
    assert all((item.first_at, item.last_at) == (item.first, item.last) for item in ranges)


@given(numbers)
def test_mark_is_the_number_before_the_first_missing_one(arrived: list[int]) -> None:
    ranges = merge_ranges(single_range(n, 0.0) for n in arrived)
    assert high_water_mark(ranges) == next(n for n in range(42) if n + 1 not in arrived)


@given(numbers)
def test_gaps_are_the_numbers_missing_below_the_last(arrived: list[int]) -> None:
    open_gaps = gaps_between(merge_ranges(single_range(n, float(n)) for n in arrived))
    assert sum(gap.missing for gap in open_gaps) == len(set(range(1, max(arrived, default=0))) - set(arrived))


def test_gap_is_dated_between_the_completions_around_it() -> None:
    ranges = merge_ranges([single_range(1, 100.0), single_range(4, 130.0), single_range(5, 140.0)])
    assert gaps_between(ranges) == (Gap(first=2, last=3, earliest=100.0, latest=130.0),)
    assert gaps_between(ranges[1:]) == (Gap(first=1, last=3, earliest=130.0 - DAY_S, latest=130.0),)


def test_gap_covers_all_days_between_when_a_clock_was_wrong() -> None:
    ranges = merge_ranges([single_range(1, 3 * DAY_S), single_range(3, 100.0)])
    assert gaps_between(ranges) == (Gap(first=2, last=2, earliest=100.0, latest=3 * DAY_S),)


@given(numbers, st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10)), max_size=5))
def test_declared_losses_are_no_longer_missing(arrived: list[int], lost: list[tuple[int, int]]) -> None:
    declared_lost = [(first, first + more) for first, more in lost]
    open_gaps = gaps_between(merge_ranges(single_range(n, float(n)) for n in arrived))
    left = subtract_lost(open_gaps, declared_lost)
    numbers_left = [n for gap in left for n in range(gap.first, gap.last + 1)]
    missing = set(range(1, max(arrived, default=0))) - set(arrived)
    assert numbers_left == sorted(missing - {n for first, last in declared_lost for n in range(first, last + 1)})
    assert all(
        any(g.first <= gap.first <= gap.last <= g.last and g.latest == gap.latest for g in open_gaps) for gap in left
    )
