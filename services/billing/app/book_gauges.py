"""Keeps the gauges of the books current on every replica, so that none vanishes when another one leads."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime

from services.billing.core.reconciliation import reconcile
from services.billing.core.reports.period_report import build_period_report
from services.billing.core.utc_time import day_of, day_window
from services.billing.metrics import BookMetrics
from services.billing.ports import PayableStore
from shared.messages.billing import DayReport, Published
from shared.units import DAY_MS

WINDOWS = {"1d": 1, "7d": 7, "28d": 28}
"""Days that end with yesterday, by the label of their gauges."""


class BookGauges:
    """Reads the published revisions and how the invoices stand, and from the bus what was published last.

    `newest` returns the newest revision of each day that has one, `published` a day's last publication.
    """

    def __init__(
        self,
        payables: PayableStore,
        newest: Callable[[Collection[str]], Awaitable[Mapping[str, DayReport]]],
        weights: Mapping[str, int],
        metrics: BookMetrics,
        *,
        published: Callable[[str], Awaitable[Published | None]],
        now: Callable[[], float],
    ) -> None:
        self._payables = payables
        self._newest = newest
        self._weights = weights
        self._metrics = metrics
        self._published = published
        self._now = now

    async def refresh(self) -> None:
        """Read everything once. Raises `BusUnavailable` or what `DATABASE_ERRORS` lists."""
        standings = reconcile(*await self._payables.invoices())
        self._metrics.untied.set(sum(one.state == "differs" for one in standings))
        today = day_window(datetime.fromtimestamp(self._now(), UTC).date().isoformat()).start
        days = [day_of(today - back * DAY_MS) for back in range(1, max(WINDOWS.values()) + 1)]
        reports = await self._newest(days)
        for label, length in WINDOWS.items():
            window = [reports[day] for day in reversed(days[:length]) if day in reports]
            period = build_period_report(window, self._weights) if len(window) == length else None
            self._metrics.show_window(label, period)
        await self._show_published_until(today)

    async def _show_published_until(self, today: int) -> None:
        for back in range(1, max(WINDOWS.values()) + 1):
            published = await self._published(day_of(today - back * DAY_MS))
            if published is not None and published.state is not None:
                self._metrics.published_until.set((today - (back - 1) * DAY_MS) / 1000)
                return
        self._metrics.published_until.set(0)
