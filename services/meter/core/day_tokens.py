"""The answer about a day's tokens: sums by dimension, busy times, and why the day may not be complete."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from services.meter.core.busy_intervals import Interval
from services.meter.core.completeness import (
    SETTLING_SECONDS,
    Source,
    count_behind,
    find_gaps,
    join_names,
    open_end_reasons,
)
from services.meter.core.day import Day, parse_day
from services.meter.core.dimensions import DIMENSIONS, check_dimensions, split_by_direction
from services.meter.core.rollups import add_sums
from shared.errors import Rejected
from shared.messages.meter import Tokens, TokensQuery, TokensRow, TokenSums
from shared.units import DAY_S

MAX_DAYS = 366
MAX_KEYS = 1000


@dataclass(frozen=True, kw_only=True)
class DayFacts:
    """What the ledger knows of a day."""

    sums: Mapping[tuple[str, ...], TokenSums]
    """By the values of the requested dimensions without the direction, and the outcome as the last one."""
    sources: Sequence[Source]
    """All that have a gap, or may have more for a day."""
    quarantined: int
    """Messages of the day that take the place of an event and could not be counted."""
    busy: Mapping[str, Sequence[Interval]]


def requested_days(query: TokensQuery) -> Day:
    """Return the day or days of a query; raises `Rejected` with the name of the wrong field."""
    check_dimensions(query.by, DIMENSIONS)
    if query.key is not None and query.busy:
        raise Rejected("key: busy times cover all keys: leave it out, or ask with busy=false")
    if query.keys and (query.key not in query.keys or len(query.keys) > MAX_KEYS):
        raise Rejected(f"keys: expected at most {MAX_KEYS}, and `key` among them")
    first = parse_day(query.day)
    if query.to is None:
        return first
    last = parse_day(query.to, "to")
    if not first.end <= last.end <= first.start + MAX_DAYS * DAY_S:
        raise Rejected(f"to: expected {first.name} or one of the {MAX_DAYS - 1} days after it, got {query.to}")
    if query.busy:
        raise Rejected("to: busy times cover one day at a time: leave it out, or ask with busy=false")
    return Day(name=first.name, start=first.start, end=last.end)


def build_tokens(
    day: Day,
    query: TokensQuery,
    facts: DayFacts,
    backlog_empty_at: float | None,
    *,
    now: float,
    source_silence_s: float,
) -> Tokens:
    """Build the answer. `backlog_empty_at`: when the stream last had nothing left to read; None: never yet."""
    totals, served = TokenSums(), TokenSums()
    rows: dict[tuple[str, ...], TokenSums] = {}
    for (*values, outcome), sums in facts.sums.items():
        totals = add_sums(totals, sums)
        served = served if outcome == "failed" else add_sums(served, sums)
        for row, part in split_by_direction(tuple(values), sums, query.by):
            rows[row] = add_sums(rows.get(row, TokenSums()), part)
    missing = _missing_by_source(day, facts.sources, now)
    reasons = [
        *_unread_reasons(day, backlog_empty_at, now),
        *_behind_reasons(facts.sources, missing, now),
        *_missing_reasons(missing, facts.quarantined),
        *open_end_reasons(facts.sources, day.end, now, source_silence_s),
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
        open_gaps=facts.quarantined + sum(missing.values()),
        keys=query.keys,
    )


def with_reason(tokens: Tokens, reason: str) -> Tokens:
    """Return the same answer with one more reason why the day is not complete."""
    return msgspec.structs.replace(tokens, complete=False, reasons=(*tokens.reasons, reason))


def _missing_by_source(day: Day, sources: Sequence[Source], now: float) -> dict[str, int]:
    """Return how many events of each source are missing that may be of the day."""
    counts = {
        source.name: sum(g.missing for g in find_gaps(source, now) if g.latest >= day.start and g.earliest < day.end)
        for source in sources
    }
    return {source: count for source, count in counts.items() if count}


def _unread_reasons(day: Day, backlog_empty_at: float | None, now: float) -> Iterator[str]:
    if now < day.end + SETTLING_SECONDS:
        yield "the day is not over"
    elif backlog_empty_at is None or backlog_empty_at < day.end + SETTLING_SECONDS:
        yield "the meter has not read everything since the day ended: see spot_meter_backlog"


def _behind_reasons(sources: Sequence[Source], missing: Mapping[str, int], now: float) -> Iterator[str]:
    """`missing`: by source, what is missing from the day."""
    behind = {s.name: count for s in sources if s.name in missing and (count := count_behind(s, now))}
    if behind:
        yield (
            f"the ledger lacks {sum(behind.values())} events of {join_names(sorted(behind))} that it had confirmed, "
            "as after a restore from an older copy: it is reading the stream again"
        )


def _missing_reasons(missing: Mapping[str, int], quarantined: int) -> Iterator[str]:
    if missing:
        names = join_names(sorted(missing))
        yield f"{sum(missing.values())} events of {names} are missing: see `spotinference gaps list`"
    if quarantined:
        yield f"{quarantined} messages in quarantine take the place of events: see `spotinference gaps list`"
