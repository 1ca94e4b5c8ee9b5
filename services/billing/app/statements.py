"""Answers `billing.statement`: a key's month at the prices in force."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from services.billing.app.database_outage import DATABASE_DOWN
from services.billing.app.key_names import KeyNamesById
from services.billing.app.meter_client import MeterClient
from services.billing.core.pricing.statement import build_statement, month_days
from services.billing.ports import BandStore
from shared.bus.reply import reply
from shared.errors import Rejected
from shared.messages.billing import Band, Statement, StatementQuery
from shared.messages.meter import TokensQuery


class Statements:
    """Makes the statements of keys."""

    def __init__(self, meter: MeterClient, bands: BandStore, names: KeyNamesById) -> None:
        self._names = names
        self._meter = meter
        self._bands = bands

    async def answer(self, data: bytes) -> bytes:
        advice = "the key used too many models in this month"
        return await reply(data, StatementQuery, self._statement, DATABASE_DOWN, if_too_large=advice)

    async def _statement(self, query: StatementQuery) -> Statement:
        if not query.key_id:
            raise Rejected("key_id: must not be empty: `spotinference keys list` shows ids")
        try:
            first, last = month_days(query.month)
        except ValueError as error:
            raise Rejected(f"month: {error}") from error
        tokens_query = TokensQuery(day=first, to=last, by=("day", "model", "outcome"), key=query.key_id)
        tokens = await self._meter.tokens(tokens_query)
        bands = await self._bands.since(first, last)
        made = build_statement(query.key_id, query.month, tokens, lambda model, day: _newest_band(bands, model, day))
        return replace(made, name=self._names().get(query.key_id))


def _newest_band(bands: Mapping[str, Sequence[Band]], model: str, day: str) -> Band | None:
    """Return the newest band that began by then."""
    return next((band for band in reversed(bands.get(model, ())) if band.day <= day), None)
