"""The performance page: published runs from the bus, live traffic from the ledger."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from services.site.app.report_view import ReportView
from services.site.core.performance import (
    LIVE_DAYS,
    LiveFigures,
    MeasuredRun,
    Performance,
    first_tokens,
    live_figures,
    newest_runs,
)
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_FIGURES
from shared.errors import BusError, Rejected
from shared.messages.codec import rfc3339
from shared.messages.meter_figures import Figures, FiguresQuery
from shared.units import DAY_S

log = structlog.get_logger()

REQUEST_S = 5.0


class PerformancePage:
    """Loads the performance page."""

    def __init__(self, bus: Bus, reports: ReportView, now: Callable[[], float]) -> None:
        self._bus = bus
        self._reports = reports
        self._now = now

    async def load(self, _variables: Mapping[str, str]) -> Performance:
        now = self._now()
        end = (now // DAY_S + 1) * DAY_S
        start = end - LIVE_DAYS * DAY_S
        answers = await self._live(start, end)
        whole, by_day = answers or (None, None)
        return Performance(
            as_of=rfc3339(now),
            runs=newest_runs(self._reports.bench_runs(), now),
            live_fault=None if answers else "The ledger does not answer now, so live figures are not known.",
            first_day=rfc3339(start)[:10],
            last_day=rfc3339(now)[:10],
            relative_error=whole.relative_error if whole else None,
            live=live_figures(whole) if whole else (),
            first_tokens=first_tokens(whole) if whole else (),
            days=live_figures(by_day) if by_day else (),
        )

    async def _live(self, start: float, end: float) -> tuple[Figures, Figures] | None:
        """Return the figures of the span and of each of its days; None: the ledger does not answer."""
        try:
            return await self._figures(start, end, "tier", "model"), await self._figures(
                start, end, "day", "tier", "model"
            )
        except (BusError, Rejected) as error:
            log.warning("figures_unknown", reason=str(error))
            return None

    async def _figures(self, start: float, end: float, *by: str) -> Figures:
        query = FiguresQuery(start=start, end=end, by=by)
        return await request_reply(self._bus, METER_FIGURES, query, Figures, timeout=REQUEST_S, patience_s=0.0)


def performance_rows(page: Performance) -> Iterable[Sequence[object]]:
    """Measured runs and live figures as a table; `source` says which."""
    measures = ("stream_tokens_per_second", "ttft_seconds", "added_seconds")
    percentiles = [f"{name}_{q}" for name in measures for q in ("count", "p50", "p95")]
    yield ("source", "tier", "model", "from", "to", "certainty", "streams", "tokens_per_second", *percentiles)
    for run in page.runs:
        place = ("measured run", run.tier, run.model, run.day, run.day)
        yield (*place, run.certainty, run.streams, run.tokens_per_second, *_cells(run, measures))
    for first in page.first_tokens:
        source = "live traffic, ready machine" if first.kind == "warm" else "live traffic, with a wake"
        place = (source, first.tier, first.model, page.first_day, page.last_day)
        measure = first.seconds
        yield (*place, first.certainty, None, None, *[None] * 3, measure.count, measure.p50, measure.p95, *[None] * 3)
    for row in (*page.live, *page.days):
        span = ("live traffic", row.tier, row.model, row.day or page.first_day, row.day or page.last_day)
        names = ("stream_tokens_per_second", "ttft_seconds", "overhead_seconds")
        yield (*span, row.certainty, None, row.busiest_tokens_per_second, *_cells(row, names))


def _cells(figures: MeasuredRun | LiveFigures, names: Sequence[str]) -> Iterable[float | None]:
    for name in names:
        measure = getattr(figures, name)
        yield from (None, None, None) if measure is None else (measure.count, measure.p50, measure.p95)
