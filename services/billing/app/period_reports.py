"""Answers `billing.reports`: several days in a row as one figure, and each day as far as a message can hold it."""

import msgspec

from services.billing.app.database_outage import DATABASE_DOWN
from services.billing.app.key_names import KeyNamesById
from services.billing.app.report_cache import ReportCache
from services.billing.core.reports.bill_coverage import bills_by_source, last_charges
from services.billing.core.reports.cost_lines import CostLines, to_explanations
from services.billing.core.reports.key_names import add_key_names
from services.billing.core.reports.period_report import build_period_report
from services.billing.core.utc_time import Window, day_of, day_window
from services.billing.metrics import Metrics
from services.billing.ports import DayStore
from services.billing.settings import Settings
from shared.bus.reply import MAX_REPLY_BYTES, attempt_query, encode_reply
from shared.errors import Rejected
from shared.messages.billing import PeriodReport, ReportsQuery
from shared.messages.codec import encode
from shared.messages.meter import ErrorReply
from shared.units import DAY_MS

MOST_DAYS = 92
"""A quarter."""


class PeriodReports:
    """Makes the reports of periods."""

    def __init__(
        self, report_cache: ReportCache, days: DayStore, settings: Settings, metrics: Metrics, names: KeyNamesById
    ) -> None:
        self._names = names
        self._report_cache = report_cache
        self._days = days
        self._settings = settings
        self._metrics = metrics

    async def answer(self, data: bytes) -> bytes:
        answer = await attempt_query(data, ReportsQuery, self._period, DATABASE_DOWN)
        self._metrics.reports.labels("refused" if isinstance(answer, ErrorReply) else "told").inc()
        return encode_reply(answer, if_too_large="ask for fewer days")

    async def _period(self, query: ReportsQuery) -> PeriodReport:
        days = await self._report_cache.reports(requested_days(query))
        lines = CostLines()
        if query.explain:
            for place, day in enumerate(days):
                if day.causes:
                    days[place], of_day = await self._report_cache.explain(day.day)
                    lines.add_all(of_day)
        span = Window(day_window(days[0].day).start, day_window(days[-1].day).end)
        fleet = self._settings.at(span, await self._days.fleets(span), span.end).fleet
        bills = bills_by_source(days, last_charges(await self._days.reaches(span), fleet))
        figures = msgspec.structs.replace(build_period_report(days, self._settings.weights), bills=bills)
        if query.explain and figures.causes:
            figures = msgspec.structs.replace(figures, explanations=to_explanations(lines))
        return fit_to_message(add_key_names(figures, self._names()))


def requested_days(query: ReportsQuery) -> list[str]:
    """Return the days in order, or raise `Rejected`, which names the invalid field."""
    if not 1 <= query.days <= MOST_DAYS:
        raise Rejected(f"days: expected 1 to {MOST_DAYS}, got {query.days}")
    try:
        last = day_window(query.to)
        return [day_of(last.start - back * DAY_MS) for back in reversed(range(query.days))]
    except (ValueError, OverflowError) as error:
        raise Rejected(f"to: {error}") from error


def fit_to_message(report: PeriodReport) -> PeriodReport:
    """Shorten the report until it fits into a message. The largest lists are dropped first; `left_out` names them."""
    if len(encode(report)) <= MAX_REPLY_BYTES:
        return report
    bare = tuple(
        msgspec.structs.replace(day, keys=(), models=(), sources=(), hours=(), unbilled=()) for day in report.days
    )
    left_out = "keys, models, sources, hours and unbilled of each day"
    report = msgspec.structs.replace(report, days=bare, left_out=left_out)
    if len(encode(report)) <= MAX_REPLY_BYTES:
        return report
    report = msgspec.structs.replace(report, keys=(), left_out="keys; models, sources, hours and unbilled of each day")
    if len(encode(report)) <= MAX_REPLY_BYTES:
        return report
    left_out = "keys; explanations; models, sources, hours and unbilled of each day"
    return msgspec.structs.replace(report, explanations=(), left_out=left_out)
