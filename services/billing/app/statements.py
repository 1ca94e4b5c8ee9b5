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
from shared.messages.billing import Band, KeyMonthCost, Statement, StatementQuery
from shared.messages.meter import TokensQuery, TokensRow


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
        keys = tuple(dict.fromkeys((query.key_id, *query.others)))
        by = ("day", "model", "outcome", *(("key",) if query.others else ()))
        more = keys if query.others else ()
        tokens = await self._meter.tokens(TokensQuery(day=first, to=last, by=by, key=query.key_id, keys=more))
        bands = await self._bands.since(first, last)
        rows: dict[str, list[TokensRow]] = {key: [] for key in tokens.keys or keys[:1]}
        for row in tokens.rows:
            rows[row.dimensions.get("key", query.key_id)].append(row)
        made, *others = [
            build_statement(
                key, query.month, replace(tokens, rows=own), lambda model, day: _newest_band(bands, model, day)
            )
            for key, own in rows.items()
        ]
        costs = tuple(
            KeyMonthCost(key_id=s.key_id, complete=s.complete, tokens=s.tokens, amount=s.amount, reasons=s.reasons)
            for s in others
        )
        return replace(made, name=self._names().get(query.key_id), others=costs)


def _newest_band(bands: Mapping[str, Sequence[Band]], model: str, day: str) -> Band | None:
    """Return the newest band that began by then."""
    return next((band for band in reversed(bands.get(model, ())) if band.day <= day), None)
