"""One UTC day of the ledger: its bounds, its sums by dimension, when each machine was busy, whether it is complete."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from services.meter.core.runs import DAY, Gap
from services.meter.core.sums import MINUTE, plus
from shared.messages.meter import Tokens, TokensQuery, TokensRow, TokenSums

COLUMNS = {"model": "model", "tier": "tier", "key": "key_id", "machine": "machine", "outcome": "outcome"}
"""The dimensions that can be asked for, and the fields of an event that they are."""
SETTLING_SECONDS = 60.0
"""After midnight: for events on their way when the day ended, and clocks that differ."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Day:
    """A UTC day; Unix seconds, end exclusive."""

    name: str
    start: float
    end: float

    @property
    def first_minute(self) -> int:
        return int(self.start / MINUTE)

    @property
    def end_minute(self) -> int:
        return int(self.end / MINUTE)


def parse_day(text: str) -> Day:
    """`YYYY-MM-DD`; `ValueError` otherwise."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise ValueError(f"day: expected YYYY-MM-DD such as 2026-11-23, got {text!r}")
    try:
        start = datetime.combine(date.fromisoformat(text), time(), UTC).timestamp()
    except ValueError as error:
        raise ValueError(f"day: {text!r} is no day: {error}") from error
    return Day(name=text, start=start, end=start + DAY)


def asked(query: TokensQuery) -> Day:
    """The day asked for; `ValueError` that names the wrong field."""
    for position, dimension in enumerate(query.by):
        if dimension not in COLUMNS:
            raise ValueError(f"by: {dimension!r} is no dimension: use any of {', '.join(COLUMNS)}")
        if dimension in query.by[:position]:
            raise ValueError(f"by: {dimension!r} is asked for twice")
    return parse_day(query.day)


@dataclass(frozen=True, kw_only=True)
class DayFacts:
    """What the ledger knows of a day."""

    sums: Mapping[tuple[str, ...], TokenSums]
    """By the values of the dimensions asked for, and the outcome as the last one."""
    gaps: tuple[Gap, ...]
    """All that are open, of any day."""
    quarantined: int
    """Messages of the day that are known by source and number, but could not be counted."""
    busy: Mapping[str, Sequence[Interval]]


def answer(day: Day, query: TokensQuery, facts: DayFacts, read_dry_at: float | None) -> Tokens:
    """`read_dry_at`: when the stream was last found with nothing left to read; None if never yet."""
    totals, served = TokenSums(), TokenSums()
    rows: dict[tuple[str, ...], TokenSums] = {}
    for (*values, outcome), sums in facts.sums.items():
        totals = plus(totals, sums)
        served = served if outcome == "failed" else plus(served, sums)
        rows[tuple(values)] = plus(rows.get(tuple(values), TokenSums()), sums)
    missing = facts.quarantined + sum(g.missing for g in facts.gaps if g.latest >= day.start and g.earliest < day.end)
    settled = read_dry_at is not None and read_dry_at >= day.end + SETTLING_SECONDS
    return Tokens(
        day=day.name,
        complete=settled and missing == 0,
        totals=totals,
        served=served,
        rows=tuple(
            TokensRow(dimensions=dict(zip(query.by, values, strict=True)), sums=sums)
            for values, sums in sorted(rows.items())
            if query.by
        ),
        busy={machine: tuple(intervals) for machine, intervals in facts.busy.items()},
        open_gaps=missing,
    )


def serving(day: Day, completed_at: float, duration: float, wake_wait: float) -> Interval | None:
    """The part of a day in which a request was with its machine; the wait for a wake is not serving time."""
    start = max(day.start, min(completed_at, completed_at - duration + wake_wait))
    end = min(day.end, completed_at)
    return (start, end) if start < end else None


def extend(busy: list[Interval], more: Interval) -> None:
    """Add an interval that does not begin before the last one of `busy`, which stays merged and sorted."""
    if busy and more[0] <= busy[-1][1]:
        busy[-1] = (busy[-1][0], max(busy[-1][1], more[1]))
    else:
        busy.append(more)
