"""The price list: makes the bands once a day, and answers `billing.bands` for any day."""

from collections.abc import Callable

import structlog

from services.billing.app.database_outage import DATABASE_DOWN
from services.billing.app.report_cache import ReportCache
from services.billing.core.pricing.bands import LONG_WINDOW_DAYS, days_before, next_band
from services.billing.core.utc_time import day_window
from services.billing.ports import BandBasis, BandStore
from services.billing.settings import Settings
from shared.bus.reply import reply
from shared.errors import Rejected
from shared.messages.billing import Band, Bands, BandsQuery
from shared.units import HOUR_MS, to_millis

log = structlog.get_logger()

LATEST = 6 * HOUR_MS
"""After midnight. From then on bands are made even if the usage of the day before is incomplete."""
NOT_MADE = "no band had been made by then"


class BandMaker:
    """Makes the price bands, and answers questions about them."""

    def __init__(
        self, prices: BandStore, report_cache: ReportCache, settings: Settings, *, now: Callable[[], float]
    ) -> None:
        self._prices = prices
        self._report_cache = report_cache
        self._settings = settings
        self._now = now

    async def answer(self, data: bytes) -> bytes:
        return await reply(data, BandsQuery, self._in_force, DATABASE_DOWN, if_too_large="configure fewer models")

    async def make_bands(self) -> None:
        """Make today's bands, once yesterday is known. Raises `DATABASE_ERRORS`."""
        day = self._report_cache.today()
        if await self._prices.has_bands_for(day):
            return
        try:
            reports = await self._report_cache.reports(days_before(day, LONG_WINDOW_DAYS))
        except Rejected as error:
            log.warning("bands_postponed", day=day, reason=str(error))
            return
        if not reports[-1].usage_complete and to_millis(self._now()) < day_window(day).start + LATEST:
            return
        standing = await self._prices.in_force(day)
        made = [
            BandBasis(band=band, revisions={report.day: report.revision for report in reports})
            for model in self._settings.models
            if (band := next_band(model, day, reports, self._settings.ladder, standing.get(model))) is not None
        ]
        if await self._prices.add(day, made, self._now()):
            log.info("bands_made", day=day, new=[basis.band.model for basis in made])

    async def _in_force(self, query: BandsQuery) -> Bands:
        try:
            day_window(query.day)
        except ValueError as error:
            raise Rejected(f"day: {error}") from error
        if query.day > self._report_cache.today():
            raise Rejected(f"day: {query.day} is in the future: bands are made on the day itself")
        return Bands(day=query.day, bands=await self._bands_on(query.day))

    async def todays(self) -> tuple[Band, ...]:
        """The bands in force today. Raises `DATABASE_ERRORS`."""
        return await self._bands_on(self._report_cache.today())

    async def _bands_on(self, day: str) -> tuple[Band, ...]:
        bands_by_model = await self._prices.in_force(day)
        return tuple(bands_by_model.get(model) or _none(model, day) for model in self._settings.models)


def _none(model: str, day: str) -> Band:
    return Band(model=model, day=day, low=None, high=None, trailing_7=None, trailing_28=None, reason=NOT_MADE)
