"""Takes events out of the ledger once they are older than they are kept, and leaves digests of them.

Step by step, each a transaction of its own: the horizon moves by a day, from when on no older event is taken; the busy
times of that day are kept; its events go, some at a time, into the digests. Whatever dies in between, the next step
goes on where it stood. One replica at a time.

Days are no partitions of their own, but rows that are deleted: PostgreSQL wants a partition's column in every unique
key, and an event's id alone is what makes it count once.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.day_queries import read_busy_intervals
from services.meter.adapters.tables import COUNTS, DIMENSIONS, busy, digests, events, horizon
from services.meter.core.day import parse_day
from services.meter.core.digest import Digest, DigestKey, day_name_of, digest_events, merge_digests, start_of_day
from services.meter.core.sequence_ranges import DAY
from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokenSums

EVENTS_AT_ONCE = 1000
"""Deleted in one transaction, which other writers wait for on SQLite: a tenth of a second."""
LOCK = 0x5B08
"""PostgreSQL's advisory lock of the one who seals; any number but `shared.database.MIGRATION_LOCK`."""


class Sealer:
    """`keep`: seconds from a day's end until its events go. Raises one of `shared.database.AWAY`."""

    def __init__(self, engine: AsyncEngine, keep: float) -> None:
        self._engine = engine
        self._keep = keep
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    async def seal(self, now: float, *, most: int) -> int:
        """Up to `most` steps; how many events went."""
        gone = 0
        for _ in range(most):
            sealed = await self.step(now)
            if sealed is None:
                break
            gone += sealed
        return gone

    async def step(self, now: float) -> int | None:
        """One transaction; how many events went, None: there is nothing to do, or another replica does it."""
        async with self._engine.begin() as connection:
            if not await self._alone(connection):
                return None
            before, busy_until = (await connection.execute(select(horizon.c.before, horizon.c.busy_until))).one()
            if busy_until < before:
                await self._keep_busy(connection, busy_until)
                return 0
            if gone := await self._take(connection, before):
                await self._add(connection, gone)
                return len(gone)
            return await self._advance(connection, before, start_of_day(now - self._keep))

    async def _alone(self, connection: AsyncConnection) -> bool:
        if self._engine.dialect.name == "sqlite":
            return True  # every transaction that writes is
        lock = text("SELECT pg_try_advisory_xact_lock(:lock)")
        return bool((await connection.execute(lock, {"lock": LOCK})).scalar_one())

    async def _advance(self, connection: AsyncConnection, before: float, due: float) -> int | None:
        """To the end of the next day that has events: there, none that is older comes in any more."""
        if before >= due:
            return None
        first = (await connection.execute(select(func.min(events.c.completed_at)))).scalar_one()
        start = max(before, due if first is None else min(due, start_of_day(first)))
        end = min(due, start + DAY)
        # Days without an event have no busy times. The update waits for those who are writing by the old horizon.
        await connection.execute(update(horizon).values(before=end, busy_until=start))
        return 0

    async def _keep_busy(self, connection: AsyncConnection, start: float) -> None:
        day = parse_day(day_name_of(start))
        rows = [
            {"day": day.name, "machine": machine, "begun": begun, "ended": ended}
            for machine, intervals in sorted((await read_busy_intervals(connection, day)).items())
            for begun, ended in intervals
        ]
        if rows:
            await connection.execute(insert(busy), rows)
        await connection.execute(update(horizon).values(busy_until=day.end))

    async def _take(self, connection: AsyncConnection, before: float) -> list[UsageEvent]:
        c = events.c
        oldest = select(c.id).where(c.completed_at < before).order_by(c.completed_at).limit(EVENTS_AT_ONCE)
        found = await connection.execute(delete(events).where(c.id.in_(oldest)).returning(*c))
        return [UsageEvent(**row._mapping) for row in found]  # noqa: SLF001 - SQLAlchemy's public name for it

    async def _add(self, connection: AsyncConnection, gone: Sequence[UsageEvent]) -> None:
        new = digest_events(gone)
        days = {key.day for key in new}
        there = {_key(row): _digest(row) for row in await connection.execute(_of_days(days))}
        rows: list[dict[str, Any]] = []
        for key, digest in new.items():
            whole = merge_digests(there[key], digest) if key in there else digest
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
