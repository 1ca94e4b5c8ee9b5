"""Replaces events that are older than the ledger keeps them by digests.

It goes step by step, each in a transaction of its own: the horizon moves by a day, after which no older event is
taken; the busy times of that day are stored; its events are moved, some at a time, into the digests. If the process
dies in between, the next step continues from there. One replica does it at a time.

Days are deleted row by row and are not partitions: PostgreSQL requires a partition's column in every unique key, but an
event's id alone must make it count once.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.day_queries import read_busy_intervals
from services.meter.adapters.tables import COUNTS, DIMENSIONS, busy, digests, events, horizon
from services.meter.core.day import parse_day
from services.meter.core.digest import Digest, DigestKey, day_name_of, digest_events, merge_digests, start_of_day
from shared.database import dialect_insert
from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokenSums
from shared.units import DAY_S

EVENTS_PER_STEP = 1000
"""Events deleted in one transaction: on SQLite other writers wait a tenth of a second for it."""
LOCK = 0x5B08
"""PostgreSQL's advisory lock of the sealing replica; any number but `shared.database.MIGRATION_LOCK`."""


class Sealer:
    """Seals days `keep_s` seconds after their end. Raises one of `shared.database.DATABASE_ERRORS`."""

    def __init__(self, engine: AsyncEngine, keep_s: float) -> None:
        self._engine = engine
        self._keep_s = keep_s
        self._insert = dialect_insert(engine)

    async def seal(self, now: float, *, max_steps: int) -> int:
        """Take up to `max_steps` steps; return how many events were sealed."""
        total = 0
        for _ in range(max_steps):
            sealed = await self.step(now)
            if sealed is None:
                break
            total += sealed
        return total

    async def step(self, now: float) -> int | None:
        """Take one step; return the number of sealed events; None: nothing to do, or another replica seals."""
        async with self._engine.begin() as connection:
            if not await self._lock(connection):
                return None
            before, busy_until = (await connection.execute(select(horizon.c.before, horizon.c.busy_until))).one()
            if busy_until < before:
                await self._store_busy(connection, busy_until)
                return 0
            if deleted := await self._delete_events(connection, before):
                await self._add_digests(connection, deleted)
                return len(deleted)
            return await self._advance(connection, before, start_of_day(now - self._keep_s))

    async def _lock(self, connection: AsyncConnection) -> bool:
        if self._engine.dialect.name == "sqlite":
            return True  # every transaction that writes holds the only lock
        lock = text("SELECT pg_try_advisory_xact_lock(:lock)")
        return bool((await connection.execute(lock, {"lock": LOCK})).scalar_one())

    async def _advance(self, connection: AsyncConnection, before: float, due: float) -> int | None:
        """Move the horizon to the end of the next day that has events: no older event is taken from then on."""
        if before >= due:
            return None
        first = (await connection.execute(select(func.min(events.c.completed_at)))).scalar_one()
        start = max(before, due if first is None else min(due, start_of_day(first)))
        end = min(due, start + DAY_S)
        # Days without events have no busy times. The update waits for transactions that read the old horizon.
        await connection.execute(update(horizon).values(before=end, busy_until=start))
        return 0

    async def _store_busy(self, connection: AsyncConnection, start: float) -> None:
        day = parse_day(day_name_of(start))
        rows = [
            {"day": day.name, "machine": machine, "begun": begun, "ended": ended}
            for machine, intervals in sorted((await read_busy_intervals(connection, day)).items())
            for begun, ended in intervals
        ]
        if rows:
            await connection.execute(insert(busy), rows)
        await connection.execute(update(horizon).values(busy_until=day.end))

    async def _delete_events(self, connection: AsyncConnection, before: float) -> list[UsageEvent]:
        c = events.c
        oldest = select(c.id).where(c.completed_at < before).order_by(c.completed_at).limit(EVENTS_PER_STEP)
        deleted = await connection.execute(delete(events).where(c.id.in_(oldest)).returning(*c))
        return [UsageEvent(**row._mapping) for row in deleted]  # noqa: SLF001 - SQLAlchemy's public name for it

    async def _add_digests(self, connection: AsyncConnection, sealed: Sequence[UsageEvent]) -> None:
        new = digest_events(sealed)
        days = {key.day for key in new}
        stored = {_key(row): _digest(row) for row in await connection.execute(_of_days(days))}
        rows: list[dict[str, Any]] = []
        for key, digest in new.items():
            whole = merge_digests(stored[key], digest) if key in stored else digest
            span = {"hash": whole.hash, "first_at": whole.first_at, "last_at": whole.last_at}
            rows.append({**asdict(key), **msgspec.structs.asdict(whole.sums), **span})
        upsert = self._insert(digests)
        changed = {name: upsert.excluded[name] for name in (*COUNTS, "hash", "first_at", "last_at")}
        upsert = upsert.on_conflict_do_update(index_elements=list(digests.primary_key.columns), set_=changed)
        await connection.execute(upsert, rows)


def _of_days(days: set[str]) -> Any:
    return select(digests).where(digests.c.day.in_(sorted(days)))


def _key(row: Any) -> DigestKey:
    return DigestKey(row.day, *(getattr(row, name) for name in DIMENSIONS))


def _digest(row: Any) -> Digest:
    sums = TokenSums(**{name: getattr(row, name) for name in COUNTS})
    return Digest(sums=sums, hash=row.hash, first_at=row.first_at, last_at=row.last_at)
