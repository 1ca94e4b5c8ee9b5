"""Days of the ledger: their bounds, their sums by dimension, when each machine was busy, whether they are complete."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import msgspec

from services.meter.core.completeness import (
    SETTLING_SECONDS,
    Source,
    count_behind,
    find_gaps,
    join_names,
    open_end_reasons,
)
from services.meter.core.rollups import MINUTE, add_sums
from services.meter.core.sequence_ranges import DAY
from shared.messages.meter import Tokens, TokensQuery, TokensRow, TokenSums

COLUMNS = {"model": "model", "tier": "tier", "key": "key_id", "machine": "machine", "outcome": "outcome"}
"""The dimensions that are fields of an event."""
TIMES = {"day": 24 * 60, "hour": 60, "minute": 1}
"""Those that are times, in minutes."""
DIRECTION = "direction"
"""`input` (not cached), `cached` and `output`: three rows of each, with the same requests."""
DIMENSIONS = (*TIMES, *COLUMNS, DIRECTION)
MOST_DAYS = 366

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Day:
    """A UTC day, or several in a row; Unix seconds, end exclusive."""

    name: str
    """Of the first one."""
    start: float
    end: float

    @property
    def first_minute(self) -> int:
        return int(self.start / MINUTE)

    @property
    def end_minute(self) -> int:
        return int(self.end / MINUTE)


def parse_day(text: str, field: str = "day") -> Day:
    """`YYYY-MM-DD`; `ValueError` otherwise."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise ValueError(f"{field}: expected YYYY-MM-DD such as 2026-11-23, got {text!r}")
    try:
        start = datetime.combine(date.fromisoformat(text), time(), UTC).timestamp()
    except ValueError as error:
        raise ValueError(f"{field}: {text!r} is no day: {error}") from error
    return Day(name=text, start=start, end=start + DAY)


def requested_days(query: TokensQuery) -> Day:
    """The day or days asked for; `ValueError` that names the wrong field."""
    for position, dimension in enumerate(query.by):
        if dimension not in DIMENSIONS:
            raise ValueError(f"by: {dimension!r} is no dimension: use any of {', '.join(DIMENSIONS)}")
        if dimension in query.by[:position]:
            raise ValueError(f"by: {dimension!r} is asked for twice")
    if query.key is not None and query.busy:
        raise ValueError("key: busy times are those of all keys: leave it out, or ask busy=false")
    first = parse_day(query.day)
    if query.to is None:
        return first
    last = parse_day(query.to, "to")
    if not first.end <= last.end <= first.start + MOST_DAYS * DAY:
        raise ValueError(f"to: expected {first.name} or one of the {MOST_DAYS - 1} days after it, got {query.to}")
    if query.busy:
        raise ValueError("to: busy times are told day by day: leave it out, or ask busy=false")
    return Day(name=first.name, start=first.start, end=last.end)


def format_dimension(dimension: str, value: int | str) -> str:
    """A dimension's value as it is told: of times their beginning, RFC 3339 in UTC."""
    if dimension not in TIMES:
        return str(value)
    at = datetime.fromtimestamp(int(value) * TIMES[dimension] * MINUTE, UTC)
    return at.date().isoformat() if dimension == "day" else f"{at:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, kw_only=True)
class DayFacts:
    """What the ledger knows of a day."""

    sums: Mapping[tuple[str, ...], TokenSums]
    """By the values of the dimensions asked for, direction left out, and the outcome as the last one."""
    sources: Sequence[Source]
    """All that have a gap, or may have more for a day."""
    quarantined: int
    """Messages of the day that take the place of an event, and could not be counted."""
    busy: Mapping[str, Sequence[Interval]]


def build_tokens(
    day: Day, query: TokensQuery, facts: DayFacts, read_dry_at: float | None, *, now: float, silence: float
) -> Tokens:
    """`read_dry_at`: when the stream was last found with nothing left to read; None if never yet."""
    totals, served = TokenSums(), TokenSums()
    rows: dict[tuple[str, ...], TokenSums] = {}
    for (*values, outcome), sums in facts.sums.items():
        totals = add_sums(totals, sums)
        served = served if outcome == "failed" else add_sums(served, sums)
        for row, part in _directed(tuple(values), sums, query.by):
            rows[row] = add_sums(rows.get(row, TokenSums()), part)
    found = _missing(day, facts.sources, now)
    reasons = [
        *_unread(day, read_dry_at, now),
        *_went_back(facts.sources, found, now),
        *_faults(found, facts.quarantined),
        *open_end_reasons(facts.sources, day.end, now, silence),
    ]
    return Tokens(
        day=day.name,
        to=query.to,
        complete=not reasons,
        reasons=tuple(reasons),
        totals=totals,
        served=served,
        rows=tuple(
            TokensRow(dimensions=dict(zip(query.by, values, strict=True)), sums=sums)
            for values, sums in sorted(rows.items())
            if query.by
        ),
        busy={machine: tuple(intervals) for machine, intervals in facts.busy.items()},
        open_gaps=facts.quarantined + sum(found.values()),
    )


def with_reason(found: Tokens, reason: str) -> Tokens:
    """The same answer with one more reason why the day may change."""
    return msgspec.structs.replace(found, complete=False, reasons=(*found.reasons, reason))


def _missing(day: Day, sources: Sequence[Source], now: float) -> dict[str, int]:
    """How many numbers of each source are missing that may be of the day."""
    counts = {
        source.name: sum(g.missing for g in find_gaps(source, now) if g.latest >= day.start and g.earliest < day.end)
        for source in sources
    }
    return {source: count for source, count in counts.items() if count}


def _unread(day: Day, read_dry_at: float | None, now: float) -> Iterator[str]:
    if now < day.end + SETTLING_SECONDS:
        yield "it is not over"
    elif read_dry_at is None or read_dry_at < day.end + SETTLING_SECONDS:
        yield "the meter has not read everything since it ended: spot_meter_backlog"


def _went_back(sources: Sequence[Source], found: Mapping[str, int], now: float) -> Iterator[str]:
    """`found`: the sources of which something of the day is missing."""
    lacking = {s.name: count for s in sources if s.name in found and (count := count_behind(s, now))}
    if lacking:
        yield (
            f"the ledger lacks {sum(lacking.values())} events of {join_names(sorted(lacking))} that it had confirmed, "
            "as after a restore from an older copy: it is reading the stream again"
        )


def _faults(found: Mapping[str, int], quarantined: int) -> Iterator[str]:
    if found:
        yield f"{sum(found.values())} events of {join_names(sorted(found))} are missing: spotinference gaps list"
    if quarantined:
        yield f"{quarantined} messages in quarantine take the place of events: spotinference gaps list"


def _directed(
    values: tuple[str, ...], sums: TokenSums, by: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], TokenSums]]:
    """A row, or three of it at the place of the direction."""
    if DIRECTION not in by:
        yield values, sums
        return
    at = by.index(DIRECTION)
    uncached = sums.prompt_tokens - sums.cached_tokens
    parts = {
        "input": TokenSums(requests=sums.requests, prompt_tokens=uncached),
        "cached": TokenSums(requests=sums.requests, prompt_tokens=sums.cached_tokens, cached_tokens=sums.cached_tokens),
        "output": TokenSums(
            requests=sums.requests, completion_tokens=sums.completion_tokens, reasoning_tokens=sums.reasoning_tokens
        ),
    }
    for direction, part in parts.items():
        yield (*values[:at], direction, *values[at:]), part


def serving_interval(day: Day, completed_at: float, duration: float, wake_wait: float) -> Interval | None:
    """The part of a day in which a request was with its machine; the wait for a wake is not serving time."""
    start = max(day.start, min(completed_at, completed_at - duration + wake_wait))
    end = min(day.end, completed_at)
    return (start, end) if start < end else None


def append_interval(busy: list[Interval], more: Interval) -> None:
    """Add an interval that does not begin before the last one of `busy`, which stays merged and sorted."""
    if busy and more[0] <= busy[-1][1]:
        busy[-1] = (busy[-1][0], max(busy[-1][1], more[1]))
    else:
        busy.append(more)
