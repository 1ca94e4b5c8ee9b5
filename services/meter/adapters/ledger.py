"""The ledger on SQLite or PostgreSQL: a batch is one transaction, an answer is one moment.

Replicas write side by side: a source's row is the lock on its runs, and every transaction takes its locks in the same
order (horizon, sources, events, conflicts, runs, rollups, hours, minutes, months, figures, unknowns, quarantine; each
sorted), so that none waits in a circle.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import Table, bindparam, case, delete, select
from sqlalchemy.dialects import postgresql, sqlite
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
from services.meter.core.batch import Batch, CountableEvent, QuarantineKind, is_same_event
from services.meter.core.day import Day, DayFacts
from services.meter.core.history import history_page
from services.meter.core.rollups import MonthKey, hour_rollups, key_month_tokens, minute_rollups, minute_totals
from services.meter.core.sequence_ranges import SeqRange, high_water_mark, merge_ranges
from services.meter.core.unknown_models import UnknownModel, What, count_unknown_models
from shared.database import DATABASE_ERRORS, describe, read_transaction
from shared.messages.gateway import UsageEvent
from shared.messages.meter import History, HistoryQuery

VALUES_AT_ONCE = 1000
"""Values in one IN list: both databases take about 32,000 parameters in a statement."""
HISTORY_ROWS = 10_000
"""Of a page, which is one message: each is some 50 bytes."""


@dataclass(frozen=True, kw_only=True)
class RecordResult:
    """What a batch did: messages counted and not, and how the marks and the months in it stand."""

    counted: int
    repeated: int
    conflicts: int
    quarantined: Mapping[QuarantineKind, int]
    unknown: Mapping[tuple[What, str], UnknownModel]
    """Among the counted ones."""
    marks: dict[str, int]
    """By source."""
    months: dict[MonthKey, int]
    """Tokens, of other batches too."""


class SqlLedger:
    """Every call raises one of `shared.database.AWAY` when the database is; nothing is written then."""

    def __init__(self, engine: AsyncEngine, models: Container[str] | None = None) -> None:
        """`models`: those of the configuration; None: all are known."""
        self._engine = engine
        self._models = models
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
        self.fault: str | None = None
        """Why the last transaction failed; None when it did not."""

    async def record(self, batch: Batch, *, from_quarantine: bool = False) -> RecordResult:
        """Write a batch, whatever of it is in the ledger already. Committed when this returns.

        `from_quarantine`: its messages are there, whatever they say. What is in the ledger after this no longer counts
        as such.
        """
        async with self._watched(self._engine.begin()) as connection:
            batch = batch.quarantine_older(await _horizon(connection))
            sequence_ranges = batch.sequence_ranges
            await self._lock(connection, sequence_ranges, batch.received_at)
            fresh = await self._insert_events(connection, batch.first_by_id)
            repeats = [m for m in batch.countable if fresh.get(m.event.id) is not m.event]
            stored = fresh | await _stored(connection, batch.first_by_id.keys() - fresh.keys())
            # What was in quarantine is kept there, whatever it says.
            other = [] if from_quarantine else repeats
            conflicting = await self._insert_conflicts(connection, other, stored, batch.received_at)
            before = await _runs(connection, sequence_ranges)
            marks = await self._advance(connection, before, sequence_ranges)
            await self._add_rollups(connection, fresh.values())
            months = await self._add_months(connection, key_month_tokens(stored.values(), counted=fresh))
            await add_performance(connection, self._insert, fresh.values())
            unknown = count_unknown_models(fresh.values(), self._models)
            await self._add_unknown(connection, unknown)
            quarantined = await self._insert_quarantined(connection, batch, before)
            # Of what comes again from the stream some was put there when it could not be counted.
            await mark_recounted(connection, [_digest(m.payload) for m in batch.countable], batch.received_at)
        return RecordResult(
            counted=len(fresh),
            repeated=len(repeats) - conflicting,
            conflicts=conflicting,
            quarantined=quarantined,
            unknown=unknown,
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
        async with self._watched(read_transaction(self._engine)) as connection:
            return {row.source: row.last for row in await connection.execute(query)}

    async def months(self, wanted: Collection[str]) -> dict[MonthKey, int]:
        """The tokens of every key that has any in these months (`YYYY-MM`)."""
        query = select(key_months).where(key_months.c.month.in_(wanted))
        async with self._watched(read_transaction(self._engine)) as connection:
            return _months(await connection.execute(query))

    async def day(
        self, day: Day, by: Sequence[str], *, busy: bool, key: str | None = None, active_since: float = 0.0
    ) -> DayFacts:
        """What the ledger knows of a day, all as of one moment; `Rejected` where that is too much.

        `key`: only the sums of this one. Sources of which nothing is missing are named only if they were heard since
        `active_since`.
        """
        async with self._watched(read_transaction(self._engine)) as connection:
            return await read_day(connection, day, by, busy=busy, key=key, active_since=active_since)

    async def history(self, query: HistoryQuery) -> History:
        """A page of what happened, as it stands now."""
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
            self.fault = describe(error)
            raise
        self.fault = None

    async def _lock(self, connection: AsyncConnection, sequence_ranges: Iterable[str], now: float) -> None:
        upsert = self._insert(sources)
        upsert = upsert.on_conflict_do_update(index_elements=["source"], set_={"seen_at": upsert.excluded.seen_at})
        await _execute(connection, upsert, [{"source": source, "seen_at": now} for source in sequence_ranges])

    async def _insert_events(
        self, connection: AsyncConnection, wanted: Mapping[str, UsageEvent]
    ) -> dict[str, UsageEvent]:
        """Those that were not there; SQLAlchemy splits the statement by the database's limit of parameters."""
        insert = self._insert(events).on_conflict_do_nothing().returning(events.c.id)
        found = await _execute(connection, insert, [msgspec.structs.asdict(event) for event in wanted.values()])
        return {row.id: wanted[row.id] for row in found}

    async def _insert_conflicts(
        self,
        connection: AsyncConnection,
        repeats: Sequence[CountableEvent],
        stored: Mapping[str, UsageEvent],
        now: float,
    ) -> int:
        other = {_digest(m.payload): m for m in repeats if not is_same_event(m.event, stored[m.event.id])}
        for digest in await find_recounted(connection, other):
            del other[digest]  # counted with another time of completion: it came with one from the future
        insert = self._insert(conflicts).on_conflict_do_nothing().returning(conflicts.c.id)
        values = [
            {"id": m.event.id, "sha256": digest, "payload": m.payload, "received_at": now}
            for digest, m in sorted(other.items())
        ]
        return len(await _execute(connection, insert, values))

    async def _advance(
        self,
        connection: AsyncConnection,
        before: Mapping[str, set[SeqRange]],
        sequence_ranges: Mapping[str, Sequence[SeqRange]],
    ) -> dict[str, int]:
        after = {source: merge_ranges([*before[source], *new]) for source, new in sequence_ranges.items()}
        gone = [{"s": s, "f": run.first} for s in after for run in sorted(before[s].difference(after[s]))]
        new = [{"source": s, **vars(run)} for s in after for run in after[s] if run not in before[s]]
        removal = delete(runs).where(runs.c.source == bindparam("s"), runs.c.first == bindparam("f"))
        await _execute(connection, removal, gone)
        await _execute(connection, self._insert(runs), new)
        return {source: high_water_mark(found) for source, found in after.items()}

    async def _add_rollups(self, connection: AsyncConnection, fresh: Iterable[UsageEvent]) -> None:
        sums = minute_rollups(fresh)
        for table, found in ((rollups, sums), (hours, hour_rollups(sums)), (minutes, minute_totals(sums))):
            rows = [{**vars(key), **msgspec.structs.asdict(more)} for key, more in found.items()]
            await _execute(connection, self._adding(table, COUNTS), rows)

    async def _add_months(self, connection: AsyncConnection, tokens: Mapping[MonthKey, int]) -> dict[MonthKey, int]:
        rows = [{**vars(key), "tokens": more} for key, more in tokens.items()]
        return _months(await _execute(connection, self._adding(key_months, ["tokens"]).returning(key_months), rows))

    def _adding(self, table: Table, names: Iterable[str]) -> Any:
        """Insert a row, or add to these columns of the one that is there."""
        upsert = self._insert(table)
        more = {name: table.c[name] + upsert.excluded[name] for name in names}
        return upsert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=more)

    async def _add_unknown(self, connection: AsyncConnection, found: Mapping[tuple[What, str], UnknownModel]) -> None:
        upsert, c = self._insert(unknowns), unknowns.c
        new = upsert.excluded
        changed = {
            "events": c.events + new.events,
            "first_at": case((new.first_at < c.first_at, new.first_at), else_=c.first_at),
            "last_at": case((new.last_at > c.last_at, new.last_at), else_=c.last_at),
        }
        upsert = upsert.on_conflict_do_update(index_elements=["what", "name"], set_=changed)
        await _execute(connection, upsert, [{"what": w, "name": n, **vars(u)} for (w, n), u in found.items()])

    async def _insert_quarantined(
        self, connection: AsyncConnection, batch: Batch, before: Mapping[str, set[SeqRange]]
    ) -> dict[QuarantineKind, int]:
        lacking = batch.missing_flags({source: sorted(found) for source, found in before.items()})
        messages: dict[str, dict[str, Any]] = {}
        for message, lacks in zip(batch.quarantined, lacking, strict=True):
            row = {"received_at": batch.received_at, "lacking": lacks, **vars(message)}
            messages.setdefault(_digest(message.payload), row)
        rows = [{"sha256": digest, **row} for digest, row in sorted(messages.items())]
        insert = self._insert(quarantine).on_conflict_do_nothing().returning(quarantine.c.kind)
        return dict(Counter(row.kind for row in await _execute(connection, insert, rows)))


async def _horizon(connection: AsyncConnection) -> float:
    """Nothing older is taken any more. It does not move until this transaction ends."""
    return float((await connection.execute(select(horizon.c.before).with_for_update(read=True))).scalar_one())


async def _runs(connection: AsyncConnection, wanted: Collection[str]) -> dict[str, set[SeqRange]]:
    found: defaultdict[str, set[SeqRange]] = defaultdict(set)
    for row in await connection.execute(select(runs).where(runs.c.source.in_(wanted))):
        found[row.source].add(SeqRange(first=row.first, last=row.last, first_at=row.first_at, last_at=row.last_at))
    return found


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
