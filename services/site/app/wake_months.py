"""The wakes of months that are over, as figures: a page does not read them again, however many there are."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from services.site.core.periods import month_of, month_start, next_month, read_from
from services.site.core.reliability import PeriodWakes, month_wakes
from services.site.core.wakes import Wake
from shared.units import HOUR_S, Millis

KEPT_S = HOUR_S
"""How long figures are kept. What a restored journal adds to an old month is seen after that."""


class WakeHistory(Protocol):
    """The wakes on record. Each method raises what `DATABASE_ERRORS` lists while the database is down."""

    async def first(self) -> Millis | None: ...

    async def wakes(self, since: Millis, until: Millis | None = None) -> list[Wake]: ...

    async def phases(self, since: Millis) -> list[tuple[str, str, float]]: ...


class WakeMonths:
    """Reads a month at a time, so that memory holds one, and keeps its figures."""

    def __init__(self, history: WakeHistory, *, cap_s: float, now: Callable[[], float]) -> None:
        self._history = history
        self._cap_s = cap_s
        self._now = now
        self._kept: dict[str, PeriodWakes] = {}
        self._kept_since: float | None = None
        self._reading = asyncio.Lock()

    async def earlier(self, *, is_whole: bool) -> dict[str, PeriodWakes]:
        """Return the figures of each month with wakes before the one that a page reads itself.

        Args:
            is_whole: the journal was read to its end; figures from before that are not kept.
        """
        async with self._reading:
            now = self._now()
            if self._kept_since is None or now - self._kept_since >= KEPT_S:
                self._kept.clear()
                self._kept_since = now
            end, first = read_from(now), await self._history.first()
            month = month_of(end / 1000) if first is None else month_of(first / 1000)
            months: dict[str, PeriodWakes] = {}
            while month_start(month) < end:
                if month not in self._kept:
                    wakes = await self._history.wakes(month_start(month), month_start(next_month(month)))
                    self._kept[month] = month_wakes(wakes, cap_s=self._cap_s, now=now)
                months[month] = self._kept[month]
                month = next_month(month)
            if not is_whole:
                self._kept_since = None
            return {name: its for name, its in months.items() if its.wakes.count or its.failed}
