"""The ledger on SQLite or PostgreSQL: a batch is one transaction, and an answer shows one moment.

Replicas write concurrently: a source's row is the lock on its sequence ranges, and every transaction takes its locks in
the same order (horizon, sources, events, conflicts, runs, rollups, hours, minutes, months, figures, unknowns,
quarantine; each sorted), so that there is no deadlock.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import Table, bindparam, case, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.day_queries import read_day, read_history_rows
from services.meter.adapters.performance import add_performance
from services.meter.adapters.quarantine_store import find_recounted, mark_recounted
from services.meter.adapters.tables import (
    COUNTS,
    conflicts,
    events,
    horizon,
    hours,
    key_months,
    minutes,
    quarantine,
    rollups,
    runs,
    sources,
    unknowns,
)
from services.meter.core.batch import Batch, CountableEvent, QuarantineKind
from services.meter.core.day import Day
from services.meter.core.day_tokens import DayFacts
from services.meter.core.event_validation import is_same_event
from services.meter.core.history import history_page
from services.meter.core.record_result import RecordResult
from services.meter.core.rollups import MonthKey, hour_rollups, key_month_tokens, minute_rollups, minute_totals
from services.meter.core.sequence_ranges import SeqRange, high_water_mark, merge_ranges
from services.meter.core.unknown_models import UnknownModel, What, count_unknown_models
from services.meter.ports import NAMES_PER_QUERY
from shared.database import DATABASE_ERRORS, describe, dialect_insert, read_transaction
from shared.errors import SchemaMismatch
from shared.messages.gateway import UsageEvent
from shared.messages.meter import History, HistoryQuery

HISTORY_ROWS = 10_000
"""Rows of a page, which is one message: each takes some 50 bytes."""


class SqlLedger:
    """The port `Ledger` on a database."""

    def __init__(self, engine: AsyncEngine, models: Container[str] | None = None) -> None:
        """`models`: the configured ones; None: all are known."""
        self._engine = engine
        self._models = models
        self._insert = dialect_insert(engine)
        self.fault: str | None = None
        """Why the last transaction failed; None: it succeeded."""
        self.is_outdated = False
        """Whether it failed because another version has changed the schema."""

    async def record(self, batch: Batch, *, from_quarantine: bool = False) -> RecordResult:
        """Commit a batch, whatever part of it the ledger already has.

        `from_quarantine`: the messages come from quarantine. Those that the ledger has after this leave it.
        """
        async with self._watched(self._engine.begin()) as connection:
            batch = batch.quarantine_older(await _horizon(connection))
            sequence_ranges = batch.sequence_ranges
            await self._lock(connection, sequence_ranges, batch.received_at)
            fresh = await self._insert_events(connection, batch.first_by_id)
            repeats = [m for m in batch.countable if fresh.get(m.event.id) is not m.event]
            stored = fresh | await _stored(connection, batch.first_by_id.keys() - fresh.keys())
            # A message from quarantine is kept there anyway: it is no conflict.
            checked = [] if from_quarantine else repeats
            conflicting = await self._insert_conflicts(connection, checked, stored, batch.received_at)
            before = await _ranges(connection, sequence_ranges)
            marks = await self._advance(connection, before, sequence_ranges)
            await self._add_rollups(connection, fresh.values())
            months = await self._add_months(connection, key_month_tokens(stored.values(), counted=fresh))
            await add_performance(connection, self._insert, fresh.values())
            unknown = count_unknown_models(fresh.values(), self._models)
            await self._add_unknown(connection, unknown)
            quarantined = await self._insert_quarantined(connection, batch, before)
            # Some messages that the stream repeats were quarantined when they could not be counted.
            await mark_recounted(connection, [_digest(m.payload) for m in batch.countable], batch.received_at)
        return RecordResult(
            events=tuple(fresh.values()),
            counted=len(fresh),
            repeated=len(repeats) - conflicting,
            conflicts=conflicting,
            quarantined=quarantined,
            unknown=unknown,
            marks=marks,
            months=months,
        )

    async def read_marks(self, since: float) -> dict[str, int]:
        """Return the mark of each source of which something arrived after `since`."""
        query = (
            select(runs.c.source, runs.c.last)
            .join(sources, sources.c.source == runs.c.source)
            .where(runs.c.first == 1, sources.c.seen_at >= since)
        )
        async with self._watched(read_transaction(self._engine)) as connection:
            return {row.source: row.last for row in await connection.execute(query)}

    async def read_months(self, months: Collection[str]) -> dict[MonthKey, int]:
        """Return the tokens of every key that has any in these months (`YYYY-MM`)."""
        query = select(key_months).where(key_months.c.month.in_(months))
        async with self._watched(read_transaction(self._engine)) as connection:
            return _months(await connection.execute(query))

    async def read_day(
        self, day: Day, by: Sequence[str], *, busy: bool, keys: Collection[str] = (), active_since: float = 0.0
    ) -> DayFacts:
        """Return what the ledger knows of a day, all as of one moment; raises `Rejected` if that is too much.

        `keys`: return only the sums of these; of all if there are none. Sources without gaps are included only
        if they were active since `active_since`.
        """
        async with self._watched(read_transaction(self._engine)) as connection:
            return await read_day(connection, day, by, busy=busy, keys=keys, active_since=active_since)

    async def read_history(self, query: HistoryQuery) -> History:
        """Return one page of requests."""
        async with self._watched(read_transaction(self._engine)) as connection:
            return history_page(await read_history_rows(connection, query, HISTORY_ROWS), HISTORY_ROWS)

    @asynccontextmanager
    async def _watched(
        self, transaction: AbstractAsyncContextManager[AsyncConnection]
    ) -> AsyncIterator[AsyncConnection]:
        try:
            async with transaction as connection:
                yield connection
        except DATABASE_ERRORS as error:
            self.fault, self.is_outdated = describe(error), isinstance(error, SchemaMismatch)
            raise
        self.fault, self.is_outdated = None, False

    async def _lock(self, connection: AsyncConnection, sequence_ranges: Iterable[str], now: float) -> None:
        upsert = self._insert(sources)
        upsert = upsert.on_conflict_do_update(index_elements=["source"], set_={"seen_at": upsert.excluded.seen_at})
        await _execute(connection, upsert, [{"source": source, "seen_at": now} for source in sequence_ranges])

    async def _insert_events(
        self, connection: AsyncConnection, candidates: Mapping[str, UsageEvent]
    ) -> dict[str, UsageEvent]:
        """Insert and return the new ones; SQLAlchemy splits the statement by the database's limit of parameters."""
        insert = self._insert(events).on_conflict_do_nothing().returning(events.c.id)
        inserted = await _execute(connection, insert, [msgspec.structs.asdict(event) for event in candidates.values()])
        return {row.id: candidates[row.id] for row in inserted}

    async def _insert_conflicts(
        self,
        connection: AsyncConnection,
        repeats: Sequence[CountableEvent],
        stored: Mapping[str, UsageEvent],
        now: float,
    ) -> int:
        different = {_digest(m.payload): m for m in repeats if not is_same_event(m.event, stored[m.event.id])}
        for digest in await find_recounted(connection, different):
            del different[digest]  # counted with another completion time, as its own was in the future
        insert = self._insert(conflicts).on_conflict_do_nothing().returning(conflicts.c.id)
        values = [
            {"id": m.event.id, "sha256": digest, "payload": m.payload, "received_at": now}
            for digest, m in sorted(different.items())
        ]
        return len(await _execute(connection, insert, values))

    async def _advance(
        self,
        connection: AsyncConnection,
        before: Mapping[str, set[SeqRange]],
        sequence_ranges: Mapping[str, Sequence[SeqRange]],
    ) -> dict[str, int]:
        after = {source: merge_ranges([*before[source], *new]) for source, new in sequence_ranges.items()}
        removed = [{"s": s, "f": run.first} for s in after for run in sorted(before[s].difference(after[s]))]
        new = [{"source": s, **vars(run)} for s in after for run in after[s] if run not in before[s]]
        removal = delete(runs).where(runs.c.source == bindparam("s"), runs.c.first == bindparam("f"))
        await _execute(connection, removal, removed)
        await _execute(connection, self._insert(runs), new)
        return {source: high_water_mark(ranges) for source, ranges in after.items()}

    async def _add_rollups(self, connection: AsyncConnection, fresh: Iterable[UsageEvent]) -> None:
        sums = minute_rollups(fresh)
        for table, table_sums in ((rollups, sums), (hours, hour_rollups(sums)), (minutes, minute_totals(sums))):
            rows = [{**vars(key), **msgspec.structs.asdict(more)} for key, more in table_sums.items()]
            await _execute(connection, self._add_upsert(table, COUNTS), rows)

    async def _add_months(self, connection: AsyncConnection, tokens: Mapping[MonthKey, int]) -> dict[MonthKey, int]:
        rows = [{**vars(key), "tokens": more} for key, more in tokens.items()]
        return _months(await _execute(connection, self._add_upsert(key_months, ["tokens"]).returning(key_months), rows))

    def _add_upsert(self, table: Table, names: Iterable[str]) -> Any:
        """Build an upsert that inserts a row, or adds to these columns of the existing one."""
        upsert = self._insert(table)
        more = {name: table.c[name] + upsert.excluded[name] for name in names}
        return upsert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=more)

    async def _add_unknown(self, connection: AsyncConnection, unknown: Mapping[tuple[What, str], UnknownModel]) -> None:
        upsert, c = self._insert(unknowns), unknowns.c
        new = upsert.excluded
        changed = {
            "events": c.events + new.events,
            "first_at": case((new.first_at < c.first_at, new.first_at), else_=c.first_at),
            "last_at": case((new.last_at > c.last_at, new.last_at), else_=c.last_at),
        }
        upsert = upsert.on_conflict_do_update(index_elements=["what", "name"], set_=changed)
        await _execute(connection, upsert, [{"what": w, "name": n, **vars(u)} for (w, n), u in unknown.items()])

    async def _insert_quarantined(
        self, connection: AsyncConnection, batch: Batch, before: Mapping[str, set[SeqRange]]
    ) -> dict[QuarantineKind, int]:
        lacking = batch.missing_flags({source: sorted(ranges) for source, ranges in before.items()})
        messages: dict[str, dict[str, Any]] = {}
        for message, lacks in zip(batch.quarantined, lacking, strict=True):
            row = {"received_at": batch.received_at, "lacking": lacks, **vars(message)}
            messages.setdefault(_digest(message.payload), row)
        rows = [{"sha256": digest, **row} for digest, row in sorted(messages.items())]
        insert = self._insert(quarantine).on_conflict_do_nothing().returning(quarantine.c.kind)
        return dict(Counter(QuarantineKind(row.kind) for row in await _execute(connection, insert, rows)))


async def _horizon(connection: AsyncConnection) -> float:
    """Return before when events are no longer taken. It does not move until this transaction ends."""
    return float((await connection.execute(select(horizon.c.before).with_for_update(read=True))).scalar_one())


async def _ranges(connection: AsyncConnection, names: Collection[str]) -> dict[str, set[SeqRange]]:
    ranges: defaultdict[str, set[SeqRange]] = defaultdict(set)
    for row in await connection.execute(select(runs).where(runs.c.source.in_(names))):
        ranges[row.source].add(SeqRange(first=row.first, last=row.last, first_at=row.first_at, last_at=row.last_at))
    return ranges


async def _execute(connection: AsyncConnection, statement: Any, rows: list[dict[str, Any]]) -> Sequence[Any]:
    """Run the statement for every row and return the rows that it returns."""
    if not rows:
        return []
    result = await connection.execute(statement, rows)
    return result.all() if result.returns_rows else []


async def _stored(connection: AsyncConnection, ids: Collection[str]) -> dict[str, UsageEvent]:
    ordered, stored = sorted(ids), dict[str, UsageEvent]()
    for start in range(0, len(ordered), NAMES_PER_QUERY):
        query = select(events).where(events.c.id.in_(ordered[start : start + NAMES_PER_QUERY]))
        for row in await connection.execute(query):
            stored[row.id] = UsageEvent(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return stored


def _months(rows: Iterable[Any]) -> dict[MonthKey, int]:
    return {MonthKey(row.month, row.key_id): row.tokens for row in rows}


def _digest(payload: bytes) -> str:
    return sha256(payload).hexdigest()
