"""Removes what the site's database need not keep: old rows of the audit, ended sessions, forms that were sent."""

import asyncio
from collections.abc import Iterator

from sqlalchemy import Column, ColumnElement, delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.site.adapters.tables import sent_forms, sessions, site_audit
from shared.ids import uuid7
from shared.units import DAY_S

KEPT_S = 30 * DAY_S
"""How long ended sessions, and forms that were sent, are remembered."""
ROWS_PER_STEP = 500
"""Deleted in one transaction: on SQLite nobody else writes meanwhile."""
MOST_STEPS = 200
"""In one go. More than that waits for the next one."""
LOCK = 0x5B09
"""PostgreSQL's advisory lock of the replica that prunes; any number that no other service uses."""
_EARLIEST = bytes(10)


class Pruner:
    """Any number of replicas may prune: one at a time does. Raises one of `shared.database.DATABASE_ERRORS`."""

    def __init__(self, engine: AsyncEngine, *, audit_kept_s: float) -> None:
        self._engine = engine
        self._audit_kept_s = audit_kept_s
        self.writing = asyncio.Lock()
        """Held while the database is used, so that the pruner is never ended there."""

    async def prune(self, now: float) -> None:
        """Delete what is due, step by step."""
        for _ in range(MOST_STEPS):
            async with self.writing:
                deleted = await self.step(now)
            if not deleted:
                return

    async def step(self, now: float) -> int:
        """Delete up to `ROWS_PER_STEP` rows and return how many. 0: nothing is due, or another replica prunes."""
        async with self._engine.begin() as connection:
            if not await self._lock(connection):
                return 0
            for key, due in self._due(now):
                oldest = select(key).where(due).limit(ROWS_PER_STEP)
                deleted = (await connection.execute(delete(key.table).where(key.in_(oldest)))).rowcount
                if deleted:
                    return int(deleted)
        return 0

    def _due(self, now: float) -> Iterator[tuple[Column[str], ColumnElement[bool]]]:
        """Yield each table's key, and which of its rows are due; each condition has an index."""
        yield site_audit.c.id, site_audit.c.id < uuid7(max(0.0, now - self._audit_kept_s), _EARLIEST)
        yield sessions.c.sha256, sessions.c.ends_at < now - KEPT_S
        yield sent_forms.c.sha256, sent_forms.c.sent_at < now - KEPT_S

    async def _lock(self, connection: AsyncConnection) -> bool:
        if self._engine.dialect.name == "sqlite":
            return True  # every transaction that writes holds the only lock
        lock = text("SELECT pg_try_advisory_xact_lock(:lock)")
        return bool((await connection.execute(lock, {"lock": LOCK})).scalar_one())
