"""Finds events that the ledger has confirmed and no longer has, as after a restore from an older copy."""

from collections.abc import Mapping, Sequence

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.day_queries import read_sources
from services.meter.adapters.tables import runs, sources
from services.meter.core.completeness import SEARCH_MARGIN_SECONDS, Source, count_behind
from shared.database import dialect_insert, read_transaction
from shared.messages.meter import Confirmed


class SqlConfirmedMarks:
    """The port `ConfirmedMarks` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def newest_received_at(self) -> float:
        """Return when the newest event arrived (Unix seconds), which is the age of a restored copy."""
        async with read_transaction(self._engine) as connection:
            return await _newest(connection)

    async def compare(self, confirmed: Sequence[Confirmed], *, newest_at: float | None = None) -> dict[str, int]:
        """Record for which sources the ledger lacks events that it had confirmed.

        `confirmed` must have been read before this call: marks only rise, so a ledger that did not go back is never
        below them. `newest_at` is what `newest_received_at` returned before anything was counted; None: its value now.
        Returns each such source with the number of events that its mark lacks.
        """
        mark = select(runs.c.source, runs.c.last).where(runs.c.first == 1)
        async with read_transaction(self._engine) as connection:
            marks = {row.source: row.last for row in await connection.execute(mark)}
        higher = {c.source: c for c in confirmed if c.source_seq > marks.get(c.source, 0)}
        if higher:
            await self._record(higher, newest_at)
        return {c.source: c.source_seq - marks.get(c.source, 0) for c in higher.values()}

    async def _record(self, higher: Mapping[str, Confirmed], newest_at: float | None) -> None:
        c, upsert = sources.c, self._insert(sources)
        new = upsert.excluded
        changed = {name: new[name] for name in ("confirmed", "confirmed_at", "lacking_since")}
        upsert = upsert.on_conflict_do_update(
            index_elements=["source"], set_=changed, where=new.confirmed > c.confirmed
        )
        async with self._engine.begin() as connection:
            newest_at = await _newest(connection) if newest_at is None else newest_at
            rows = [
                {
                    "source": name,
                    "seen_at": 0.0,
                    "left": False,
                    "confirmed": mark.source_seq,
                    "confirmed_at": mark.at,
                    "lacking_since": max(0.0, newest_at - SEARCH_MARGIN_SECONDS),
                }
                for name, mark in sorted(higher.items())
            ]
            await connection.execute(upsert, rows)

    async def sources_behind(self, now: float) -> list[Source]:
        """Return the sources whose missing confirmed events the stream may still have."""
        async with read_transaction(self._engine) as connection:
            candidates = await read_sources(connection, float("inf"))
        return [source for source in candidates if count_behind(source, now)]

    async def record_searched(self, confirmed: Mapping[str, int]) -> None:
        """Record that the stream was searched up to these numbers."""
        statement = update(sources).where(sources.c.source == bindparam("s")).values(sought=bindparam("n"))
        async with self._engine.begin() as connection:
            for name, number in sorted(confirmed.items()):
                await connection.execute(statement, {"s": name, "n": number})


async def _newest(connection: AsyncConnection) -> float:
    return (await connection.execute(select(func.max(sources.c.seen_at)))).scalar_one() or 0.0
