"""What the ledger had confirmed and no longer has, as after a restore from an older copy."""

from collections.abc import Mapping, Sequence

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.day_queries import read_sources
from services.meter.adapters.tables import runs, sources
from services.meter.core.completeness import Source, count_behind
from shared.database import read_transaction
from shared.messages.meter import Confirmed

MARGIN_SECONDS = 3600.0
"""How far the clocks of gateways, bus and meter may differ: ten times what the meter lets a gateway be ahead."""


class SqlConfirmedMarks:
    """Every call raises one of `shared.database.AWAY` when the database is; nothing is written then."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    async def newest(self) -> float:
        """When the newest thing in the ledger came: a copy is as old as that."""
        async with read_transaction(self._engine) as connection:
            return await _newest(connection)

    async def compare(self, confirmed: Sequence[Confirmed], *, newest: float | None = None) -> dict[str, int]:
        """Record which sources the ledger is behind of what it had confirmed.

        `confirmed` must have been read before this call: marks only rise, so a ledger that did not go back is never
        below them. `newest` is what the method of that name returned before anything was counted; None: as it is now.
        Returns each source that is behind, with the number of events that its mark lacks.
        """
        mark = select(runs.c.source, runs.c.last).where(runs.c.first == 1)
        async with read_transaction(self._engine) as connection:
            marks = {row.source: row.last for row in await connection.execute(mark)}
        higher = {c.source: c for c in confirmed if c.source_seq > marks.get(c.source, 0)}
        if higher:
            await self._record(higher, newest)
        return {c.source: c.source_seq - marks.get(c.source, 0) for c in higher.values()}

    async def _record(self, higher: Mapping[str, Confirmed], newest: float | None) -> None:
        c, upsert = sources.c, self._insert(sources)
        new = upsert.excluded
        changed = {name: new[name] for name in ("confirmed", "confirmed_at", "lacking_since")}
        upsert = upsert.on_conflict_do_update(
            index_elements=["source"], set_=changed, where=new.confirmed > c.confirmed
        )
        async with self._engine.begin() as connection:
            newest = await _newest(connection) if newest is None else newest
            rows = [
                {
                    "source": name,
                    "seen_at": 0.0,
                    "left": False,
                    "confirmed": found.source_seq,
                    "confirmed_at": found.at,
                    "lacking_since": max(0.0, newest - MARGIN_SECONDS),
                }
                for name, found in sorted(higher.items())
            ]
            await connection.execute(upsert, rows)

    async def count_behind(self, now: float) -> list[Source]:
        """The sources of which the stream may still have confirmed events that are missing."""
        async with read_transaction(self._engine) as connection:
            found = await read_sources(connection, float("inf"))
        return [source for source in found if count_behind(source, now)]

    async def sought(self, found: Mapping[str, int]) -> None:
        """Record that the stream has been searched up to these numbers."""
        statement = update(sources).where(sources.c.source == bindparam("s")).values(sought=bindparam("n"))
        async with self._engine.begin() as connection:
            for name, number in sorted(found.items()):
                await connection.execute(statement, {"s": name, "n": number})


async def _newest(connection: AsyncConnection) -> float:
    return (await connection.execute(select(func.max(sources.c.seen_at)))).scalar_one() or 0.0


def search_from(found: Sequence[Source]) -> float | None:
    """Since when the stream may hold what is missing, Unix seconds; None: from its beginning.

    An event is stored after it completed, and a source's events complete in the order of their numbers.
    """
    moments = [
        source.runs[0].last_at if source.runs and source.runs[0].first == 1 else source.lacking_since
        for source in found
    ]
    earliest = min(moments, default=0.0) - MARGIN_SECONDS
    return earliest if earliest > 0 else None
