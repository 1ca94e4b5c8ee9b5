"""Queries on the ledger, within one transaction that sees one moment of it."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.meter.adapters.tables import (
    COUNTS,
    busy,
    events,
    horizon,
    hours,
    losses,
    minutes,
    quarantine,
    rollups,
    runs,
    sources,
)
from services.meter.core.busy_intervals import Interval, append_interval, serving_interval
from services.meter.core.completeness import Source
from services.meter.core.day import Day
from services.meter.core.day_tokens import DayFacts
from services.meter.core.dimensions import COLUMNS, DIRECTION, TIMES, format_dimension
from services.meter.core.rollups import MINUTES_PER_HOUR
from services.meter.core.sequence_ranges import SeqRange
from shared.errors import Rejected
from shared.messages.meter import HistoryQuery, TokenSums, plausible
from shared.units import DAY_S

ROWS_PER_FETCH = 5000
"""Rows read from a stream at once: a task switch for each would cost more than the row."""
MAX_ROWS = 20_000
"""Rows of sums in one answer: more do not fit into a message."""
MAX_REQUEST_S = DAY_S
"""A request that a machine served on a day completed at most this long after it."""


async def read_day(
    connection: AsyncConnection, day: Day, by: Sequence[str], *, busy: bool, keys: Collection[str], active_since: float
) -> DayFacts:
    return DayFacts(
        sums=await _sums(connection, day, by, keys),
        sources=await read_sources(connection, active_since),
        quarantined=await _quarantined(connection, day),
        busy=await _busy(connection, day) if busy else {},
    )


async def read_history_rows(connection: AsyncConnection, query: HistoryQuery, limit: int) -> Sequence[Any]:
    """Return each request's id, completion, wait for a wake, duration, model and tokens, in order."""
    e = events.c
    statement = select(e.id, e.completed_at, e.wake_wait, e.duration, e.model, e.prompt_tokens + e.completion_tokens)
    statement = statement.where(e.completed_at >= query.start, e.completed_at < query.end)
    if query.after is not None:
        # The index serves only the first term.
        statement = statement.where(e.completed_at >= query.after[0], tuple_(e.completed_at, e.id) > query.after)
    return (await connection.execute(statement.order_by(e.completed_at, e.id).limit(limit))).all()


async def read_sources(connection: AsyncConnection, active_since: float) -> tuple[Source, ...]:
    """Return the sources with gaps, or with unreported events, and those active since `active_since`."""
    c = sources.c
    highest = select(func.coalesce(func.max(runs.c.last), 0)).where(runs.c.source == c.source).scalar_subquery()
    is_relevant = or_(
        c.source.in_(select(runs.c.source).where(runs.c.first > 1)),
        c.written > highest,
        c.confirmed > highest,
        c.seen_at >= active_since,
        c.heard_at >= active_since,
    )
    names = select(c.source).where(is_relevant)
    ranges: defaultdict[str, list[SeqRange]] = defaultdict(list)
    query = select(runs).where(runs.c.source.in_(names)).order_by(runs.c.source, runs.c.first)
    for row in await connection.execute(query):
        ranges[row.source].append(SeqRange(first=row.first, last=row.last, first_at=row.first_at, last_at=row.last_at))
    lost: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in await connection.execute(select(losses).where(losses.c.source.in_(names))):
        lost[row.source].append((row.first, row.last))
    return tuple(
        Source(
            name=row.source,
            ranges=tuple(ranges[row.source]),
            lost=tuple(lost[row.source]),
            seen_at=row.seen_at,
            written=row.written or 0,
            heartbeat_at=row.heard_at,
            left=row.left,
            confirmed=row.confirmed,
            confirmed_at=row.confirmed_at,
            lacking_since=row.lacking_since,
            searched=row.sought,
        )
        for row in await connection.execute(select(sources).where(is_relevant).order_by(c.source))
    )


async def _sums(
    connection: AsyncConnection, day: Day, by: Sequence[str], keys: Collection[str]
) -> dict[tuple[str, ...], TokenSums]:
    """Sum from the table with the fewest rows that has the requested dimensions."""
    by = [dimension for dimension in by if dimension != DIRECTION]
    table, at, unit = hours, hours.c.hour, MINUTES_PER_HOUR
    if "minute" in by:
        is_enough = not keys and all(d in TIMES or COLUMNS[d] in minutes.c for d in by)
        table = minutes if is_enough else rollups
        at, unit = table.c.minute, 1

    def column(dimension: str) -> ColumnElement[Any]:
        if dimension not in TIMES:
            return table.c[COLUMNS[dimension]]
        # Not a parameter: PostgreSQL would not recognize the same one in SELECT and GROUP BY.
        width = TIMES[dimension] // unit
        return at if width == 1 else at.op("/")(literal_column(str(width)))

    grouped = [*map(column, by), table.c.outcome]
    condition = (at >= day.first_minute // unit) & (at < day.end_minute // unit)
    if keys:
        condition &= table.c.key_id.in_(keys)
    query = select(*grouped, *(func.sum(table.c[name]) for name in COUNTS)).where(condition)
    rows = (await connection.execute(query.group_by(*dict.fromkeys(grouped)).limit(MAX_ROWS + 1))).all()
    if len(rows) > MAX_ROWS:
        raise Rejected(f"by: more than {MAX_ROWS} rows: ask for fewer dimensions, or fewer days")
    dimensions = [*by, "outcome"]
    return {
        # PostgreSQL's sum of whole numbers is a decimal.
        tuple(map(format_dimension, dimensions, row[: len(grouped)])): plausible(
            TokenSums(**dict(zip(COUNTS, map(int, row[len(grouped) :]), strict=True)))
        )
        for row in rows
    }


def is_open_quarantine() -> ColumnElement[bool]:
    """Return the condition for messages that take the place of an event that is not declared lost."""
    q, gone = quarantine.c, losses.c
    lost = select(gone.first).where(gone.source == q.source, gone.first <= q.source_seq, gone.last >= q.source_seq)
    return q.lacking & ~lost.exists()


async def _quarantined(connection: AsyncConnection, day: Day) -> int:
    """Count the day's messages in quarantine. One without a number shows as a gap of its source."""
    query = select(func.count()).select_from(quarantine)
    query = query.where(is_open_quarantine(), quarantine.c.at >= day.start, quarantine.c.at < day.end)
    return int((await connection.execute(query)).scalar_one())


async def _busy(connection: AsyncConnection, day: Day) -> dict[str, list[Interval]]:
    kept_until = (await connection.execute(select(horizon.c.busy_until))).scalar_one()
    if day.end > kept_until:
        return await read_busy_intervals(connection, day)
    intervals: defaultdict[str, list[Interval]] = defaultdict(list)
    query = select(busy).where(busy.c.day == day.name).order_by(busy.c.machine, busy.c.begun)
    for row in await connection.execute(query):
        intervals[row.machine].append((row.begun, row.ended))
    return dict(intervals)


async def read_busy_intervals(connection: AsyncConnection, day: Day) -> dict[str, list[Interval]]:
    """Merge the events' intervals as they are streamed: a day with millions of requests has few idle moments."""
    e = events.c
    begun = e.completed_at - e.duration + e.wake_wait
    query = (
        select(e.machine, e.completed_at, e.duration, e.wake_wait)
        .where(e.completed_at > day.start, e.completed_at < day.end + MAX_REQUEST_S, begun < day.end)
        .order_by(e.machine, begun)
    )
    intervals: defaultdict[str, list[Interval]] = defaultdict(list)
    async with connection.stream(query) as rows:
        async for part in rows.partitions(ROWS_PER_FETCH):
            for machine, completed_at, duration, wake_wait in part:
                if interval := serving_interval(day, completed_at, duration, wake_wait):
                    append_interval(intervals[machine], interval)
    return dict(intervals)
