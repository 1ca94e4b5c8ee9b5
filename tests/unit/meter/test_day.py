"""A day's bounds, intervals and completeness."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.day import DayFacts, Interval, answer, asked, extend, parse_day, serving
from services.meter.core.runs import Gap
from shared.messages.meter import TokensQuery, TokenSums
from tests.unit.meter.events import MIDNIGHT

DAY = parse_day("2026-11-23")
SETTLED = DAY.end + 60.0


def facts(*gaps: Gap, quarantined: int = 0) -> DayFacts:
    sums: dict[tuple[str, ...], TokenSums] = {
        ("a", "completed"): TokenSums(requests=2, prompt_tokens=5),
        ("a", "failed"): TokenSums(requests=1),
    }
    return DayFacts(sums=sums, gaps=gaps, quarantined=quarantined, busy={})


def test_a_day_is_utc_and_a_whole_number_of_minutes() -> None:
    assert (DAY.start, DAY.end) == (MIDNIGHT, MIDNIGHT + 86400)
    assert DAY.end_minute - DAY.first_minute == 1440


@pytest.mark.parametrize("text", ["", "today", "2026-1-1", "2026-02-30", "20261123", "2026-11-23T00:00", "2026-W01-1"])
def test_a_bad_day_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"^day: "):
        asked(TokensQuery(day=text))


@pytest.mark.parametrize("by", [("modell",), ("key_id",), ("model", "model")])
def test_a_bad_dimension_is_refused_by_name(by: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^by: "):
        asked(TokensQuery(day="2026-11-23", by=by))


@pytest.mark.parametrize(
    ("gap", "read_dry_at", "missing", "complete"),
    [
        (None, None, 0, False),
        (None, SETTLED - 0.001, 0, False),
        (None, SETTLED, 0, True),
        (Gap(missing=3, earliest=DAY.start - 9, latest=DAY.start - 1), SETTLED, 0, True),
        (Gap(missing=3, earliest=DAY.start - 9, latest=DAY.start), SETTLED, 3, False),
        (Gap(missing=3, earliest=DAY.end - 1, latest=DAY.end + 9), SETTLED, 3, False),
        (Gap(missing=3, earliest=DAY.end, latest=DAY.end + 9), SETTLED, 0, True),
    ],
)
def test_a_day_is_complete_when_it_is_over_and_lacks_nothing(
    gap: Gap | None, read_dry_at: float | None, missing: int, complete: bool
) -> None:
    got = answer(DAY, TokensQuery(day=DAY.name, by=("model",)), facts(*([gap] if gap else [])), read_dry_at)
    assert (got.open_gaps, got.complete) == (missing, complete)


def test_a_quarantined_message_keeps_its_day_open() -> None:
    got = answer(DAY, TokensQuery(day=DAY.name, by=("model",)), facts(quarantined=1), SETTLED)
    assert (got.open_gaps, got.complete) == (1, False)


def test_failed_requests_are_in_the_totals_and_not_in_what_was_served() -> None:
    got = answer(DAY, TokensQuery(day=DAY.name, by=("model",)), facts(), None)
    assert got.totals == TokenSums(requests=3, prompt_tokens=5)
    assert got.served == TokenSums(requests=2, prompt_tokens=5)
    assert [(row.dimensions, row.sums) for row in got.rows] == [({"model": "a"}, got.totals)]


moments = st.integers(-100, 86500).map(lambda n: MIDNIGHT + n)


@given(st.lists(st.tuples(moments, st.integers(0, 300), st.integers(0, 300)), max_size=30))
def test_busy_covers_exactly_the_seconds_in_which_somebody_was_served(requests: list[tuple[float, int, int]]) -> None:
    parts = [found for at, duration, wait in requests if (found := serving(DAY, at, duration, wait))]
    busy: list[Interval] = []
    for part in sorted(parts):
        extend(busy, part)
    wanted = {
        second
        for at, duration, wait in requests
        for second in range(int(at - duration + wait), int(at))
        if DAY.start <= second < DAY.end
    }
    assert {second for start, end in busy for second in range(int(start), int(end))} == wanted
    assert all(a[1] < b[0] for a, b in pairwise(busy)), "merged and sorted"
