"""The ledger on SQLite or PostgreSQL: a batch is one transaction, an answer is one moment.

Replicas write side by side: a source's row is the lock on its runs, and every transaction takes its locks in the
same order (sources, events, conflicts, runs, rollups, months, quarantine; each sorted), so that none waits in a circle.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import Table, bindparam, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.tables import conflicts, events, key_months, quarantine, rollups, runs, sources
from services.meter.core.batch import Batch, Readable
from services.meter.core.day import COLUMNS, Day, DayFacts, Interval, extend, serving
from services.meter.core.history import page
from services.meter.core.runs import DAY, Run, gaps, mark, merged
from services.meter.core.sums import MonthKey, monthly, rolled_up
from shared.database import AWAY, reading, told
from shared.messages.gateway import UsageEvent
from shared.messages.meter import History, HistoryQuery, TokenSums

VALUES_AT_ONCE = 1000
"""Values in one IN list: both databases take about 32,000 parameters in a statement."""
ROWS_AT_ONCE = 5000
"""Rows read from a stream in one go: a task switch for each of them would cost more than the row."""
HISTORY_ROWS = 10_000
"""Of a page, which is one message: each is some 50 bytes."""
LONGEST_REQUEST = DAY
"""A request that was with a machine on a day completed at most this much later."""

_SUMS = TokenSums.__struct_fields__


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a batch did: messages counted and not, and how the marks and the months in it stand."""

    counted: int
    repeated: int
    conflicts: int
    quarantined: int
    marks: dict[str, int]
    """By source."""
    months: dict[MonthKey, int]
    """Tokens, of other batches too."""


class Ledger:
    """Every call raises one of `shared.database.AWAY` when the database is; nothing is written then."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
        self.fault: str | None = None
        """Why the last transaction failed; None when it did not."""

    async def record(self, batch: Batch) -> Recorded:
        """Write a batch, whatever of it is in the ledger already. Committed when this returns."""
        arrived = batch.arrived
        async with self._watched(self._engine.begin()) as connection:
            await self._lock(connection, arrived, batch.received_at)
            fresh = await self._insert_events(connection, batch.first_of_each)
            repeats = [m for m in batch.readable if fresh.get(m.event.id) is not m.event]
            stored = fresh | await _stored(connection, batch.first_of_each.keys() - fresh.keys())
            conflicting = await self._insert_conflicts(connection, repeats, stored, batch.received_at)
            marks = await self._advance(connection, arrived)
            await self._add_rollups(connection, fresh.values())
            months = await self._add_months(connection, monthly(stored.values(), counted=fresh))
            quarantined = await self._insert_quarantined(connection, batch)
        return Recorded(
            counted=len(fresh),
            repeated=len(repeats) - conflicting,
            conflicts=conflicting,
            quarantined=quarantined,
            marks=marks,
            months=months,
        )

    async def marks(self, since: float) -> dict[str, int]:
        """The mark of each source of which something came after `since`."""
        query = (
            select(runs.c.source, runs.c.last)
            .join(sources, sources.c.source == runs.c.source)
            .where(runs.c.first == 1, sources.c.seen_at >= since)
        )
        async with self._watched(reading(self._engine)) as connection:
            return {row.source: row.last for row in await connection.execute(query)}

    async def months(self, wanted: Collection[str]) -> dict[MonthKey, int]:
        """The tokens of every key that has any in these months (`YYYY-MM`)."""
        query = select(key_months).where(key_months.c.month.in_(wanted))
        async with self._watched(reading(self._engine)) as connection:
            return _months(await connection.execute(query))

    async def day(self, day: Day, by: Sequence[str], *, busy: bool) -> DayFacts:
        """What the ledger knows of a day, all as of one moment."""
        async with self._watched(reading(self._engine)) as connection:
            return DayFacts(
                sums=await _sums(connection, day, by),
                gaps=tuple(gap for found in (await _runs_with_gaps(connection)).values() for gap in gaps(found)),
                quarantined=await _quarantined(connection, day),
                busy=await _busy(connection, day) if busy else {},
            )

    async def history(self, query: HistoryQuery) -> History:
        """A page of what happened, as it stands now."""
        e = events.c
        wanted = select(e.id, e.completed_at, e.wake_wait, e.duration, e.model, e.prompt_tokens + e.completion_tokens)
        wanted = wanted.where(e.completed_at >= query.start, e.completed_at < query.end)
        if query.after is not None:
            # The first term alone is what the index can be used for.
            wanted = wanted.where(e.completed_at >= query.after[0], tuple_(e.completed_at, e.id) > query.after)
        wanted = wanted.order_by(e.completed_at, e.id).limit(HISTORY_ROWS)
        async with self._watched(reading(self._engine)) as connection:
            return page((await connection.execute(wanted)).all(), HISTORY_ROWS)

    @asynccontextmanager
    async def _watched(
        self, transaction: AbstractAsyncContextManager[AsyncConnection]
    ) -> AsyncIterator[AsyncConnection]:
        try:
            async with transaction as connection:
                yield connection
        except AWAY as error:
            self.fault = told(error)
            raise
        self.fault = None

    async def _lock(self, connection: AsyncConnection, arrived: Iterable[str], now: float) -> None:
        upsert = self._insert(sources)
        upsert = upsert.on_conflict_do_update(index_elements=["source"], set_={"seen_at": upsert.excluded.seen_at})
        await _execute(connection, upsert, [{"source": source, "seen_at": now} for source in arrived])

    async def _insert_events(
        self, connection: AsyncConnection, wanted: Mapping[str, UsageEvent]
    ) -> dict[str, UsageEvent]:
        """Those that were not there; SQLAlchemy splits the statement by the database's limit of parameters."""
        insert = self._insert(events).on_conflict_do_nothing().returning(events.c.id)
        found = await _execute(connection, insert, [msgspec.structs.asdict(event) for event in wanted.values()])
        return {row.id: wanted[row.id] for row in found}

    async def _insert_conflicts(
        self, connection: AsyncConnection, repeats: Sequence[Readable], stored: Mapping[str, UsageEvent], now: float
    ) -> int:
        other = {_digest(m.payload): m for m in repeats if m.event != stored[m.event.id]}
        insert = self._insert(conflicts).on_conflict_do_nothing().returning(conflicts.c.id)
        values = [
            {"id": m.event.id, "sha256": digest, "payload": m.payload, "received_at": now}
            for digest, m in sorted(other.items())
        ]
        return len(await _execute(connection, insert, values))

    async def _advance(self, connection: AsyncConnection, arrived: Mapping[str, Sequence[Run]]) -> dict[str, int]:
        before: defaultdict[str, set[Run]] = defaultdict(set)
        for row in await connection.execute(select(runs).where(runs.c.source.in_(arrived))):
            before[row.source].add(_run(row))
        after = {source: merged([*before[source], *new]) for source, new in arrived.items()}
        gone = [{"s": s, "f": run.first} for s in after for run in sorted(before[s].difference(after[s]))]
        new = [{"source": s, **asdict(run)} for s in after for run in after[s] if run not in before[s]]
        removal = delete(runs).where(runs.c.source == bindparam("s"), runs.c.first == bindparam("f"))
        await _execute(connection, removal, gone)
        await _execute(connection, self._insert(runs), new)
        return {source: mark(found) for source, found in after.items()}

    async def _add_rollups(self, connection: AsyncConnection, fresh: Iterable[UsageEvent]) -> None:
        rows = [{**asdict(key), **msgspec.structs.asdict(sums)} for key, sums in rolled_up(fresh).items()]
        await _execute(connection, self._adding(rollups, _SUMS), rows)

    async def _add_months(self, connection: AsyncConnection, tokens: Mapping[MonthKey, int]) -> dict[MonthKey, int]:
        rows = [{**asdict(key), "tokens": more} for key, more in tokens.items()]
        return _months(await _execute(connection, self._adding(key_months, ["tokens"]).returning(key_months), rows))

    def _adding(self, table: Table, names: Iterable[str]) -> Any:
        """Insert a row, or add to these columns of the one that is there."""
        upsert = self._insert(table)
        more = {name: table.c[name] + upsert.excluded[name] for name in names}
        return upsert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=more)

    async def _insert_quarantined(self, connection: AsyncConnection, batch: Batch) -> int:
        messages = {_digest(message.payload): asdict(message) for message in batch.quarantined}
        rows = [{"sha256": d, "received_at": batch.received_at, **message} for d, message in sorted(messages.items())]
        insert = self._insert(quarantine).on_conflict_do_nothing().returning(quarantine.c.sha256)
        return len(await _execute(connection, insert, rows))


async def _execute(connection: AsyncConnection, statement: Any, rows: list[dict[str, Any]]) -> Sequence[Any]:
    """Run it for every row; the rows that it returns."""
    if not rows:
        return []
    result = await connection.execute(statement, rows)
    return result.all() if result.returns_rows else []


async def _stored(connection: AsyncConnection, ids: Collection[str]) -> dict[str, UsageEvent]:
    wanted, found = sorted(ids), dict[str, UsageEvent]()
    for start in range(0, len(wanted), VALUES_AT_ONCE):
        query = select(events).where(events.c.id.in_(wanted[start : start + VALUES_AT_ONCE]))
        for row in await connection.execute(query):
            found[row.id] = UsageEvent(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return found


def _months(rows: Iterable[Any]) -> dict[MonthKey, int]:
    return {MonthKey(row.month, row.key_id): row.tokens for row in rows}


def _digest(payload: bytes) -> str:
    return sha256(payload).hexdigest()


def _run(row: Any) -> Run:
    return Run(first=row.first, last=row.last, first_at=row.first_at, last_at=row.last_at)


def _within(day: Day, table: Table) -> Any:
    return (table.c.minute >= day.first_minute) & (table.c.minute < day.end_minute)


async def _sums(connection: AsyncConnection, day: Day, by: Sequence[str]) -> dict[tuple[str, ...], TokenSums]:
    dimensions = [rollups.c[COLUMNS[dimension]] for dimension in by]
    grouped = [*dimensions, rollups.c.outcome]
    query = select(*grouped, *(func.sum(rollups.c[name]) for name in _SUMS)).where(_within(day, rollups))
    found = await connection.execute(query.group_by(*dict.fromkeys(grouped)))
    # PostgreSQL's sum of whole numbers is a decimal.
    return {
        tuple(row[: len(grouped)]): TokenSums(**dict(zip(_SUMS, map(int, row[len(grouped) :]), strict=True)))
        for row in found
    }


async def _runs_with_gaps(connection: AsyncConnection) -> dict[str, list[Run]]:
    """Only a run that does not begin with 1 lies behind a gap."""
    behind = select(runs.c.source).where(runs.c.first > 1)
    found: defaultdict[str, list[Run]] = defaultdict(list)
    query = select(runs).where(runs.c.source.in_(behind)).order_by(runs.c.source, runs.c.first)
    for row in await connection.execute(query):
        found[row.source].append(_run(row))
    return found


async def _quarantined(connection: AsyncConnection, day: Day) -> int:
    """Messages of the day that are kept and not counted. One without a number shows as a gap of its source."""
    query = select(func.count()).select_from(quarantine)
    at = quarantine.c.at
    query = query.where(quarantine.c.source_seq.is_not(None), at >= day.start, at < day.end)
    return int((await connection.execute(query)).scalar_one())


async def _busy(connection: AsyncConnection, day: Day) -> dict[str, list[Interval]]:
    """Streamed and merged on the way: a day may have millions of requests, and has few idle moments then."""
    e = events.c
    begun = e.completed_at - e.duration + e.wake_wait
    query = (
        select(e.machine, e.completed_at, e.duration, e.wake_wait)
        .where(e.completed_at > day.start, e.completed_at < day.end + LONGEST_REQUEST, begun < day.end)
        .order_by(e.machine, begun)
    )
    busy: defaultdict[str, list[Interval]] = defaultdict(list)
    async with connection.stream(query) as rows:
        async for some in rows.partitions(ROWS_AT_ONCE):
            for machine, completed_at, duration, wake_wait in some:
                if interval := serving(day, completed_at, duration, wake_wait):
                    extend(busy[machine], interval)
    return dict(busy)
