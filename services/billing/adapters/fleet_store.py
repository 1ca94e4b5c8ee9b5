"""Keeps what the configuration says of machines, tiers and prices, so that past days do not lose it."""

from sqlalchemy import func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.tables import fleets
from services.billing.core.allocation.fleet_history import KeptFleet, KnownFleet
from services.billing.core.utc_time import Window
from shared.messages.codec import decode, encode
from shared.units import to_millis


class SqlFleetStore:
    """Adds what changed. Raises what `DATABASE_ERRORS` lists while the database is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def keep(self, fleet: KnownFleet, now: float) -> None:
        """Keep the fleet from now on, unless it is the newest already."""
        newest = select(fleets.c.since, fleets.c.content).order_by(fleets.c.since.desc()).limit(1)
        async with self._engine.begin() as connection:
            row = (await connection.execute(newest)).one_or_none()
            if row is not None and decode(row.content, KnownFleet) == fleet:
                return
            since = to_millis(now) if row is None else max(to_millis(now), row.since + 1)
            await connection.execute(insert(fleets).values(since=since, content=encode(fleet).decode()))


async def kept_fleets(connection: AsyncConnection, window: Window | None = None) -> list[KeptFleet]:
    """Return in order what held in the window, without one all. The first one of all holds for the time before it."""
    f = fleets.c
    query = select(f.since, f.content).order_by(f.since)
    if window is not None:
        before = select(func.max(f.since)).where(f.since <= window.start).scalar_subquery()
        first = select(func.min(f.since)).scalar_subquery()
        query = query.where(
            or_(f.since == func.coalesce(before, first), (f.since > window.start) & (f.since < window.end))
        )
    return [KeptFleet(row.since, decode(row.content, KnownFleet)) for row in await connection.execute(query)]
