"""Messages in quarantine, looked at again; and the names that a message must have to be counted."""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.tables import known_keys, quarantine, sources
from services.meter.core.batch import QuarantineKind
from services.meter.core.recount import QuarantinedMessage
from shared.database import read_transaction

VALUES_AT_ONCE = 1000
"""Values in one IN list: both databases take about 32,000 parameters in a statement."""


async def mark_recounted(connection: AsyncConnection, digests: Sequence[str], now: float) -> None:
    """Record that these messages are in the ledger now."""
    q = quarantine.c
    for some in _chunks(digests):
        held = update(quarantine).where(q.sha256.in_(some), q.recounted_at.is_(None))
        await connection.execute(held.values(recounted_at=now, lacking=False))


async def find_recounted(connection: AsyncConnection, digests: Collection[str]) -> list[str]:
    """Which of these messages were taken out of quarantine."""
    q, found = quarantine.c, list[str]()
    for some in _chunks(sorted(digests)):
        query = select(q.sha256).where(q.sha256.in_(some), q.recounted_at.is_not(None))
        found += (await connection.execute(query)).scalars()
    return found


class SqlQuarantineStore:
    """Every call raises one of `shared.database.AWAY` when the database is; nothing is written then."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    async def held(
        self, after: str, most: int, *, kind: QuarantineKind | None = None, names: Collection[str] | None = None
    ) -> tuple[list[QuarantinedMessage], str | None]:
        """Messages that are not counted, in the order of their hashes behind `after`; and where the next page begins.

        `names`: only those whose unknown key or source is one of them.
        """
        q = quarantine.c
        query = select(q.sha256, q.payload, q.kind, q.at).where(q.recounted_at.is_(None), q.sha256 > after)
        if kind is not None:
            query = query.where(q.kind == kind)
        if names is not None:
            query = query.where(q.name.in_(sorted(names)))
        async with read_transaction(self._engine) as connection:
            rows = (await connection.execute(query.order_by(q.sha256).limit(most))).all()
        found = [QuarantinedMessage(payload=row.payload, kind=row.kind, at=row.at) for row in rows]
        return found, rows[-1].sha256 if len(rows) == most else None

    async def known(self, keys: Collection[str], names: Collection[str]) -> tuple[set[str], set[str]]:
        """Which of these keys and of these sources were known to any meter before."""
        async with read_transaction(self._engine) as connection:
            found_keys = [
                key
                for some in _chunks(sorted(keys))
                for key in (
                    await connection.execute(select(known_keys.c.key_id).where(known_keys.c.key_id.in_(some)))
                ).scalars()
            ]
            found_names = [
                name
                for some in _chunks(sorted(names))
                for name in (
                    await connection.execute(select(sources.c.source).where(sources.c.source.in_(some)))
                ).scalars()
            ]
        return set(found_keys), set(found_names)

    async def remember(self, keys: Iterable[str]) -> None:
        """Keep the ids of keys that exist: the bus may lose them, and what they used is still counted."""
        rows = [{"key_id": key} for key in sorted(keys)]
        if rows:
            async with self._engine.begin() as connection:
                await connection.execute(self._insert(known_keys).on_conflict_do_nothing(), rows)


def _chunks(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + VALUES_AT_ONCE] for start in range(0, len(values), VALUES_AT_ONCE)]
