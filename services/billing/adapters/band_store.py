"""The price list of every day: bands are added once a day and never changed."""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.tables import band_days, bands
from services.billing.ports import BandBasis
from shared.database import dialect_insert, read_transaction
from shared.messages.billing import Band
from shared.messages.codec import decode, encode


class SqlBandStore:
    """The price bands in the database. Raises what `DATABASE_ERRORS` lists while it is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def has_bands_for(self, day: str) -> bool:
        """Return whether the day's bands have been made, changed or not."""
        async with read_transaction(self._engine) as connection:
            rows = await connection.execute(select(band_days.c.day).where(band_days.c.day == day))
            return rows.one_or_none() is not None

    async def add(self, day: str, made: Sequence[BandBasis], now: float) -> bool:
        """Add all new bands of a day. False: the day's bands had been made before, and nothing was added."""
        async with self._engine.begin() as connection:
            first = dialect_insert(self._engine)(band_days).values(day=day, made_at=now).on_conflict_do_nothing()
            if not (await connection.execute(first)).rowcount:
                return False
            rows = [
                {
                    "model": basis.band.model,
                    "day": day,
                    "low": basis.band.low,
                    "high": basis.band.high,
                    "basis": encode(basis).decode(),
                }
                for basis in made
            ]
            if rows:
                await connection.execute(insert(bands), rows)
            return True

    async def in_force(self, day: str) -> dict[str, Band]:
        """Return the band of each model that has one by that day."""
        async with read_transaction(self._engine) as connection:
            return await _newest(connection, day)

    async def since(self, first: str, to: str) -> Mapping[str, Sequence[Band]]:
        """Return by model, in order, the bands that were in force on any of the days."""
        async with read_transaction(self._engine) as connection:
            by_model = {model: [band] for model, band in (await _newest(connection, first)).items()}
            later = select(bands.c.basis).where(bands.c.day > first, bands.c.day <= to).order_by(bands.c.day)
            for row in await connection.execute(later):
                band = _band(row.basis)
                by_model.setdefault(band.model, []).append(band)
            return by_model


async def _newest(connection: AsyncConnection, day: str) -> dict[str, Band]:
    newest = (
        select(bands.c.model, func.max(bands.c.day).label("day"))
        .where(bands.c.day <= day)
        .group_by(bands.c.model)
        .subquery()
    )
    query = select(bands.c.basis).join(newest, (bands.c.model == newest.c.model) & (bands.c.day == newest.c.day))
    newest_bands = [_band(row.basis) for row in await connection.execute(query.order_by(bands.c.model))]
    return {band.model: band for band in newest_bands}


def _band(basis: str) -> Band:
    return decode(basis, BandBasis).band
