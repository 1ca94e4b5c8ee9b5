"""Messages in quarantine, and the names that an event needs to be counted."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.tables import known_keys, quarantine
from services.meter.adapters.tables import sources as sources_table
from services.meter.core.batch import QuarantineKind
from services.meter.core.recount import QuarantinedMessage
from services.meter.ports import NAMES_PER_QUERY
from shared.database import dialect_insert, read_transaction


async def mark_recounted(connection: AsyncConnection, digests: Sequence[str], now: float) -> None:
    """Record that the ledger has these messages now."""
    q = quarantine.c
    for chunk in _chunks(digests):
        waiting = update(quarantine).where(q.sha256.in_(chunk), q.recounted_at.is_(None))
        await connection.execute(waiting.values(recounted_at=now, lacking=False))


async def find_recounted(connection: AsyncConnection, digests: Collection[str]) -> list[str]:
    """Return which of these messages were recounted."""
    q, recounted = quarantine.c, list[str]()
    for chunk in _chunks(sorted(digests)):
        query = select(q.sha256).where(q.sha256.in_(chunk), q.recounted_at.is_not(None))
        recounted += (await connection.execute(query)).scalars()
    return recounted


class SqlQuarantineStore:
    """The port `QuarantineStore` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def list_messages(
        self, after: str, limit: int, *, kind: QuarantineKind | None = None, names: Collection[str] | None = None
    ) -> tuple[list[QuarantinedMessage], str | None]:
        """Return a page of messages that are not counted, ordered by their hashes, and where the next page begins.

        `names`: only messages whose unknown key or source is one of these.
        """
        q = quarantine.c
        query = select(q.sha256, q.payload, q.kind, q.at).where(q.recounted_at.is_(None), q.sha256 > after)
        if kind is not None:
            query = query.where(q.kind == kind)
        if names is not None:
            query = query.where(q.name.in_(sorted(names)))
        async with read_transaction(self._engine) as connection:
            rows = (await connection.execute(query.order_by(q.sha256).limit(limit))).all()
        messages = [QuarantinedMessage(payload=row.payload, kind=QuarantineKind(row.kind), at=row.at) for row in rows]
        return messages, rows[-1].sha256 if len(rows) == limit else None

    async def known_names(self, keys: Collection[str], sources: Collection[str]) -> tuple[set[str], set[str]]:
        """Return which of these keys and which of these sources any meter has known before."""
        async with read_transaction(self._engine) as connection:
            return (
                await _stored(connection, known_keys.c.key_id, keys),
                await _stored(connection, sources_table.c.source, sources),
            )

    async def remember_keys(self, keys: Iterable[str]) -> None:
        """Store the ids of keys that exist: should the bus lose them, their usage still counts."""
        rows = [{"key_id": key} for key in sorted(keys)]
        if rows:
            async with self._engine.begin() as connection:
                await connection.execute(self._insert(known_keys).on_conflict_do_nothing(), rows)


async def _stored(connection: AsyncConnection, column: Column[Any], values: Collection[str]) -> set[str]:
    stored: set[str] = set()
    for chunk in _chunks(sorted(values)):
        stored.update((await connection.execute(select(column).where(column.in_(chunk)))).scalars())
    return stored


def _chunks(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + NAMES_PER_QUERY] for start in range(0, len(values), NAMES_PER_QUERY)]
