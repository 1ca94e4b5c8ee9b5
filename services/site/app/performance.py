"""The performance page: published runs from the bus, live traffic from the ledger."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from services.site.core.performance import (
    LIVE_DAYS,
    LiveFigures,
    MeasuredRun,
    Performance,
    live_figures,
    newest_runs,
)
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_FIGURES, bench_key
from shared.bus.topology import REPORTS
from shared.errors import BusError, Rejected
from shared.messages.bench import BenchRun
from shared.messages.codec import Unreadable, decode, rfc3339
from shared.messages.meter_figures import Figures, FiguresQuery
from shared.units import DAY_S

log = structlog.get_logger()

REQUEST_S = 5.0


class PerformancePage:
    """Loads the performance page."""

    def __init__(self, bus: Bus, now: Callable[[], float]) -> None:
        self._bus = bus
        self._now = now

    async def load(self, _variables: Mapping[str, str]) -> Performance:
        now = self._now()
        end = (now // DAY_S + 1) * DAY_S
        start = end - LIVE_DAYS * DAY_S
        live, days, fault, error = await self._live(start, end)
        return Performance(
            as_of=rfc3339(now),
            runs=newest_runs(await self._runs(), now),
            live_fault=fault,
            first_day=rfc3339(start)[:10],
            last_day=rfc3339(now)[:10],
            relative_error=error,
            live=live,
            days=days,
        )

    async def _runs(self) -> list[BenchRun]:
        """Return the measured runs on the bus. One that cannot be decoded is left out, counted and logged."""
        runs: list[BenchRun] = []
        for key, entry in (await self._bus.entries(REPORTS)).items():
            if key.startswith(bench_key("")):
                try:
                    runs.append(decode(entry.value, BenchRun))
                except Unreadable as error:
                    self._bus.rejections.record(REPORTS.name, error, entry=key)
        return runs

    async def _live(
        self, start: float, end: float
    ) -> tuple[tuple[LiveFigures, ...], tuple[LiveFigures, ...], str | None, float | None]:
        """Return the figures of the span and of each of its days, why there are none, and their relative error."""
        try:
            answers = [
                await request_reply(
                    self._bus,
                    METER_FIGURES,
                    FiguresQuery(start=start, end=end, by=by),
                    Figures,
                    timeout=REQUEST_S,
                    patience_s=0.0,
                )
                for by in (("tier", "model"), ("day", "tier", "model"))
            ]
        except (BusError, Rejected) as error:
            log.warning("figures_unknown", reason=str(error))
            return (), (), "The ledger does not answer at the moment, so live figures are not known.", None
        return live_figures(answers[0]), live_figures(answers[1]), None, answers[0].relative_error


def performance_rows(page: Performance) -> Iterable[Sequence[object]]:
    """Measured runs and live figures as a table; `source` says which."""
    measures = ("stream_tokens_per_second", "ttft_seconds", "added_seconds")
    percentiles = [f"{name}_{q}" for name in measures for q in ("count", "p50", "p95")]
    yield ("source", "tier", "model", "from", "to", "certainty", "streams", "tokens_per_second", *percentiles)
    for run in page.runs:
        place = ("measured run", run.tier, run.model, run.day, run.day)
        yield (*place, run.certainty, run.streams, run.tokens_per_second, *_cells(run, measures))
    for row in (*page.live, *page.days):
        span = ("live traffic", row.tier, row.model, row.day or page.first_day, row.day or page.last_day)
        names = ("stream_tokens_per_second", "ttft_seconds", "overhead_seconds")
        yield (*span, row.certainty, None, row.busiest_tokens_per_second, *_cells(row, names))


def _cells(figures: MeasuredRun | LiveFigures, names: Sequence[str]) -> Iterable[float | None]:
    for name in names:
        measure = getattr(figures, name)
        yield from (None, None, None) if measure is None else (measure.count, measure.p50, measure.p95)
