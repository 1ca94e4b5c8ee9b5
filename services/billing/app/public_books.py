"""Publishes for everybody: the figures of each day, the trailing days and the price list, as messages on the bus.

They stay there when billing is away, so whoever shows them depends on no answer.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from services.billing.core.reports.period_report import build_period_report
from services.billing.core.reports.public_figures import public_band, public_day, public_period
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.messages.billing import Band, DayReport
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.public import Headline, PublishedDay

HEADLINE_DAYS = 7
REPEAT_SECONDS = 300.0
"""How often an unchanged headline is put again: its age tells whether billing still works."""


class PublicBooks:
    """Puts what has changed. A day that cannot be made keeps what was published of it."""

    def __init__(
        self,
        bus: Bus,
        bands: Callable[[], Awaitable[Sequence[Band]]],
        weights: Mapping[str, int],
        band_tokens: int,
        *,
        now: Callable[[], float],
    ) -> None:
        """`bands` are those in force today; `weights` are as in `build_figures`."""
        self._bus = bus
        self._bands = bands
        self._weights = weights
        self._band_tokens = band_tokens
        self._now = now
        self._days: dict[str, bytes] = {}
        """By day, the figures that are on the bus."""
        self._headline: Headline | None = None

    async def publish(self, reports: Iterable[DayReport]) -> None:
        """Publish these consecutive days, which end with yesterday. Raises `BusUnavailable` or `DATABASE_ERRORS`."""
        days = sorted(reports, key=lambda report: report.day)
        for report in days:
            if not report.failed:
                await self._publish_day(report)
        self._days = {report.day: self._days[report.day] for report in days if report.day in self._days}
        if len(days) >= HEADLINE_DAYS:
            await self._publish_headline(days[-HEADLINE_DAYS:])

    async def _publish_day(self, report: DayReport) -> None:
        figures = public_day(report)
        encoded = encode(figures)
        if self._days.get(report.day) == encoded:
            return
        known = await self._known_day(report.day)
        if known is None and report.state is None:
            return  # nothing is known about the day, and nothing was published
        if known != encoded:
            message = PublishedDay(figures=figures, at=self._now())
            await self._bus.put(topology.REPORTS, subjects.public_day_key(report.day), encode(message))
        self._days[report.day] = encoded

    async def _known_day(self, day: str) -> bytes | None:
        entry = await self._bus.get(topology.REPORTS, subjects.public_day_key(day))
        try:
            return None if entry is None else encode(decode(entry.value, PublishedDay).figures)
        except Unreadable:
            return b""

    async def _publish_headline(self, days: Sequence[DayReport]) -> None:
        headline = Headline(
            period=public_period(build_period_report(days, self._weights)),
            bands=tuple(map(public_band, await self._bands())),
            band_tokens=self._band_tokens,
            at=self._now(),
        )
        last = self._headline
        is_recent = last is not None and headline.at - last.at < REPEAT_SECONDS
        if is_recent and last == msgspec.structs.replace(headline, at=last.at if last else 0.0):
            return
        await self._bus.put(topology.REPORTS, subjects.HEADLINE_KEY, encode(headline))
        self._headline = headline
