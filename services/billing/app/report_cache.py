"""Reports of several days: a day that is over is made again only after one of its inputs has changed."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import structlog

from services.billing.app.day_reports import DayReports
from services.billing.app.meter_client import MeterClient
from services.billing.core.reports.cost_lines import CostLines
from services.billing.core.reports.day_report import failed_report
from services.billing.core.utc_time import day_of, day_window
from services.billing.ports import DayFingerprints
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable
from shared.messages.billing import DayReport
from shared.messages.meter import TokensQuery, TokensRow
from shared.units import HOUR_MS, to_millis

log = structlog.get_logger()

Newest = Callable[[str], Awaitable[DayReport | None]]
"""A day's last stored revision."""


RETRY_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 3600.0
"""Pause after a failed day; it doubles up to this. A change of the day's inputs ends it at once."""


@dataclass(frozen=True)
class _Failure:
    """A day that could not be made."""

    report: DayReport
    mark: str | None
    """The fingerprint of its inputs."""
    pause: float
    until: float
    """Unix seconds; it is not tried before."""


class _Usage(NamedTuple):
    """The meter's answer about a day."""

    sums: list[TokensRow]
    is_complete: bool
    reasons: tuple[str, ...]


class ReportCache:
    """Makes and remembers reports. Raises `Rejected` if the meter does not answer, or what `DATABASE_ERRORS` lists.

    If only one day fails, its report has `failed` and the reason, and the other days are not affected.
    """

    def __init__(
        self,
        reports: DayReports,
        newest: Newest,
        meter: MeterClient,
        fingerprints: DayFingerprints,
        *,
        now: Callable[[], float],
    ) -> None:
        self._reports = reports
        self._newest = newest
        self._meter = meter
        self._fingerprints = fingerprints
        self._now = now
        self._made_with: dict[str, str] = {}
        """By day, the fingerprint of the inputs of its newest revision."""
        self._failures: dict[str, _Failure] = {}

    def today(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).date().isoformat()

    async def iterate(self, days: Sequence[str]) -> AsyncIterator[DayReport]:
        """Yield the report of each of these consecutive days, in order, as the books and the meter have it now."""
        now = to_millis(self._now())
        over = sorted(day for day in days if day_window(day).end + HOUR_MS <= now)
        marks = await self._marks_of(over) if over else {}
        for day in days:
            yield await self._report_or_failure(day, marks.get(day))

    async def explain(self, day: str) -> tuple[DayReport, CostLines]:
        """The day's report as it is now, made anew, and what its figures are made of."""
        return await self._reports.explain(day)

    async def reports(self, days: Sequence[str]) -> list[DayReport]:
        return [report async for report in self.iterate(days)]

    async def _report_or_failure(self, day: str, mark: str | None) -> DayReport:
        """Return the day's report, or a failed one with the reason if the error concerns this day alone."""
        failure = self._failures.get(day)
        if failure is not None and failure.mark == mark and self._now() < failure.until:
            return failure.report
        try:
            # An open day changes with the clock.
            report = await (self._reports.report(day) if mark is None else self._report(day, mark))
        except (BusUnavailable, *DATABASE_ERRORS):
            raise
        except Exception as error:
            if isinstance(error.__cause__, BusUnavailable):
                raise  # without the meter no day can be made
            log.exception("day_failed", day=day)
            pause = RETRY_SECONDS if failure is None else min(2 * failure.pause, LONGEST_RETRY_SECONDS)
            report = failed_report(day, f"{describe(error)}: see the log of billing")
            self._failures[day] = _Failure(report, mark, pause, self._now() + pause)
        else:
            self._failures.pop(day, None)
        return report

    async def _report(self, day: str, mark: str) -> DayReport:
        if self._made_with.get(day) == mark and (stored := await self._newest(day)) is not None:
            return stored
        report = await self._reports.report(day)
        self._made_with[day] = mark
        return report

    async def _marks_of(self, days: Sequence[str]) -> dict[str, str]:
        of_books, usage = await self._fingerprints.compute(days), await self._usage(days)
        # A request that completes on the next day kept a machine busy on this one.
        following = day_of(day_window(days[-1]).end)
        sums = {day: of_day.sums for day, of_day in [*usage.items(), *(await self._usage([following])).items()]}
        next_sums = dict(zip(days, [sums[day] for day in [*days[1:], following]], strict=True))
        # The calendar alone can end a billing period and make its days final.
        inputs = {day: [of_books[day], usage[day], next_sums[day], self.today()] for day in days}
        return {day: hashlib.sha256(msgspec.json.encode(of_it)).hexdigest() for day, of_it in inputs.items()}

    async def _usage(self, days: Sequence[str]) -> dict[str, _Usage]:
        """Return each day's sums and gaps: one query if all days are complete, else each half by itself."""
        answer = await self._meter.tokens(TokensQuery(day=days[0], to=days[-1], by=("day", "outcome")))
        if not answer.complete and len(days) > 1:
            half = len(days) // 2
            return {**await self._usage(days[:half]), **await self._usage(days[half:])}
        sums: dict[str, list[TokensRow]] = {day: [] for day in days}
        for row in answer.rows:
            sums[row.dimensions["day"]].append(row)
        return {day: _Usage(sums[day], answer.complete, answer.reasons) for day in days}
