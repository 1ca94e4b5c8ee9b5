"""Days, their tokens by dimension, their busy intervals, and whether they are complete."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.busy_intervals import Interval, append_interval, serving_interval
from services.meter.core.completeness import Source
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import DayFacts, build_tokens, requested_days
from services.meter.core.dimensions import format_dimension
from services.meter.core.sequence_ranges import SeqRange, single_range
from shared.errors import Rejected
from shared.messages.meter import Tokens, TokensQuery, TokenSums
from tests.unit.meter.events import MIDNIGHT

DAY = parse_day("2026-11-23")
SETTLED = DAY.end + 60.0


SILENCE = 3600.0


def facts(*sources: Source, quarantined: int = 0) -> DayFacts:
    sums: dict[tuple[str, ...], TokenSums] = {
        ("a", "completed"): TokenSums(requests=2, prompt_tokens=5, cached_tokens=2, completion_tokens=4),
        ("a", "failed"): TokenSums(requests=1),
    }
    return DayFacts(sums=sums, sources=sources, quarantined=quarantined, busy={})


def tokens_of(
    day_facts: DayFacts, *, by: tuple[str, ...] = ("model",), backlog_empty_at: float | None = SETTLED
) -> Tokens:
    return build_tokens(
        DAY, TokensQuery(day=DAY.name, by=by), day_facts, backlog_empty_at, now=SETTLED + 9, source_silence_s=SILENCE
    )


def behind(earliest: float, latest: float) -> Source:
    """Return a source whose numbers 2 to 4 are missing and which continues after the day."""
    runs = (single_range(1, earliest), SeqRange(first=5, last=6, first_at=latest, last_at=DAY.end + 20))
    return Source(name="gw-1", ranges=runs, seen_at=DAY.end)


def test_day_is_a_utc_day_of_1440_minutes() -> None:
    assert (DAY.start, DAY.end) == (MIDNIGHT, MIDNIGHT + 86400)
    assert DAY.end_minute - DAY.first_minute == 1440


@pytest.mark.parametrize("text", ["", "today", "2026-1-1", "2026-02-30", "20261123", "2026-11-23T00:00", "2026-W01-1"])
def test_invalid_day_is_rejected_with_its_field(text: str) -> None:
    with pytest.raises(Rejected, match=r"^day: "):
        requested_days(TokensQuery(day=text))


@pytest.mark.parametrize("by", [("modell",), ("key_id",), ("model", "model")])
def test_invalid_dimension_is_rejected_with_its_field(by: tuple[str, ...]) -> None:
    with pytest.raises(Rejected, match=r"^by: "):
        requested_days(TokensQuery(day="2026-11-23", by=by))


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (TokensQuery(day="2026-11-23", to="2026-11-22"), "to: expected 2026-11-23 or one of the 365 days after it"),
        (TokensQuery(day="2026-11-23", to="2027-11-24"), "to: expected"),
        (TokensQuery(day="2026-11-23", to="tomorrow"), "to: expected YYYY-MM-DD"),
        (TokensQuery(day="2026-11-23", to="2026-11-24", busy=True), "to: busy times cover one day at a time"),
        (TokensQuery(day="2026-11-23", key="k1", busy=True), "key: busy times cover all keys"),
        (TokensQuery(day="2026-11-23", keys=("k1",)), "keys: expected at most 1000, and `key` among them"),
        (TokensQuery(day="2026-11-23", key="0", keys=tuple(map(str, range(1001)))), "keys: expected at most 1000"),
    ],
)
def test_invalid_range_is_rejected_with_its_field(query: TokensQuery, reason: str) -> None:
    with pytest.raises(Rejected, match="^" + reason):
        requested_days(query)


def test_range_includes_both_days() -> None:
    days = requested_days(TokensQuery(day="2026-11-23", to="2026-11-25"))
    assert (days.name, days.start, days.end) == ("2026-11-23", DAY.start, DAY.end + 2 * 86400)
    assert requested_days(TokensQuery(day="2026-11-23", to="2026-11-23")) == DAY
    assert requested_days(TokensQuery(day="2026-11-23", to="2027-11-23")).end == DAY.start + 366 * 86400


@pytest.mark.parametrize(
    ("source", "backlog_empty_at", "missing", "complete"),
    [
        (None, None, 0, False),
        (None, SETTLED - 0.001, 0, False),
        (None, SETTLED, 0, True),
        (behind(DAY.start - 9, DAY.start - 1), SETTLED, 0, True),
        (behind(DAY.start - 9, DAY.start), SETTLED, 3, False),
        (behind(DAY.end - 1, DAY.end + 9), SETTLED, 3, False),
        (behind(DAY.end, DAY.end + 9), SETTLED, 0, True),
    ],
)
def test_day_is_complete_when_it_is_over_and_nothing_is_missing(
    source: Source | None, backlog_empty_at: float | None, missing: int, complete: bool
) -> None:
    got = tokens_of(facts(*([source] if source else [])), backlog_empty_at=backlog_empty_at)
    assert (got.open_gaps, got.complete, bool(got.reasons)) == (missing, complete, not complete)


def test_day_is_incomplete_when_it_is_not_over() -> None:
    query = TokensQuery(day=DAY.name)
    got = build_tokens(DAY, query, facts(), SETTLED, now=SETTLED - 1, source_silence_s=SILENCE)
    assert (got.complete, got.reasons) == (False, ("the day is not over",))


def test_day_is_incomplete_when_a_message_is_quarantined() -> None:
    got = tokens_of(facts(quarantined=1))
    assert (got.open_gaps, got.complete) == (1, False)
    assert "1 messages in quarantine" in got.reasons[0]


def test_day_is_incomplete_when_a_source_may_have_more() -> None:
    quiet = Source(name="gw-1", ranges=(single_range(1, DAY.start),), seen_at=DAY.start)
    assert tokens_of(facts(quiet)).complete, "silent for longer than the day"
    late = Source(name="gw-1", ranges=(single_range(1, DAY.end - 5),), seen_at=DAY.end - 5)
    got = tokens_of(facts(late))
    assert (got.complete, got.open_gaps) == (False, 0)
    assert got.reasons[0].startswith("gw-1 was last active before the day's end")


def test_failed_requests_count_in_totals_but_not_in_served() -> None:
    got = tokens_of(facts())
    assert got.totals == TokenSums(requests=3, prompt_tokens=5, cached_tokens=2, completion_tokens=4)
    assert got.served == TokenSums(requests=2, prompt_tokens=5, cached_tokens=2, completion_tokens=4)
    assert [(row.dimensions, row.sums) for row in got.rows] == [({"model": "a"}, got.totals)]


def test_directions_split_a_row_into_three_that_add_up() -> None:
    rows = tokens_of(facts(), by=("model", "direction")).rows
    assert [row.dimensions["direction"] for row in rows] == ["cached", "input", "output"]
    cached, uncached, output = (row.sums for row in rows)
    assert (uncached.prompt_tokens, uncached.cached_tokens, uncached.completion_tokens) == (3, 0, 0)
    assert (cached.prompt_tokens, cached.cached_tokens, cached.completion_tokens) == (2, 2, 0)
    assert (output.prompt_tokens, output.completion_tokens) == (0, 4)
    assert {row.sums.requests for row in rows} == {3}


def test_time_dimension_is_formatted_as_its_beginning() -> None:
    hour = int(DAY.start // 3600) + 5
    assert format_dimension("day", int(DAY.start // 86400)) == "2026-11-23"
    assert format_dimension("hour", hour) == "2026-11-23T05:00:00Z"
    assert format_dimension("minute", hour * 60 + 7) == "2026-11-23T05:07:00Z"
    assert format_dimension("model", "2") == "2"


moments = st.integers(-100, 86500).map(lambda n: MIDNIGHT + n)


@given(st.lists(st.tuples(moments, st.integers(0, 300), st.integers(0, 300)), max_size=30))
def test_busy_intervals_cover_exactly_the_seconds_of_serving(requests: list[tuple[float, int, int]]) -> None:
    parts = [part for at, duration, wait in requests if (part := serving_interval(DAY, at, duration, wait))]
    busy: list[Interval] = []
    for part in sorted(parts):
        append_interval(busy, part)
    expected = {
        second
        for at, duration, wait in requests
        for second in range(int(at - duration + wait), int(at))
        if DAY.start <= second < DAY.end
    }
    assert {second for start, end in busy for second in range(int(start), int(end))} == expected
    assert all(a[1] < b[0] for a, b in pairwise(busy)), "merged and sorted"
