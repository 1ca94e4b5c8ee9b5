"""Reports of several days: one that is over is made anew only when something that it is made from has changed."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime

import msgspec

from services.billing.adapters.marks import Marks
from services.billing.core.days import HOUR, day_window, millis
from services.billing.meter import Meter
from services.billing.reports import Reports
from shared.messages.billing import DayReport
from shared.messages.meter import TokensQuery, TokensRow

Newest = Callable[[str], Awaitable[tuple[DayReport, object] | None]]
"""A day's last stored revision."""


class Shelf:
    """Raises `Refusal` where the meter does not answer, and what `shared.database.AWAY` lists."""

    def __init__(
        self, reports: Reports, newest: Newest, meter: Meter, marks: Marks, *, now: Callable[[], float]
    ) -> None:
        self._reports = reports
        self._newest = newest
        self._meter = meter
        self._marks = marks
        self._now = now
        self._made_with: dict[str, str] = {}
        """A day to the mark of all that its newest revision was made from."""

    def today(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).date().isoformat()

    async def each(self, days: Sequence[str]) -> AsyncIterator[DayReport]:
        """One for each of some days in a row, in this order, as the books and the meter have it now."""
        now = millis(self._now())
        over = sorted(day for day in days if day_window(day).end + HOUR <= now)
        marks = await self._marks_of(over) if over else {}
        for day in days:
            # A day that goes on changes with the clock.
            yield await self._report(day, marks[day]) if day in marks else await self._reports.of(day)

    async def reports(self, days: Sequence[str]) -> list[DayReport]:
        return [report async for report in self.each(days)]

    async def _report(self, day: str, mark: str) -> DayReport:
        if self._made_with.get(day) == mark and (stored := await self._newest(day)) is not None:
            return stored[0]
        report = await self._reports.of(day)
        self._made_with[day] = mark
        return report

    async def _marks_of(self, days: Sequence[str]) -> dict[str, str]:
        of_books, usage = await self._marks.of(days), await self._usage(days)
        # A billing period is over, and its days may be final, by the calendar alone.
        told = {day: [of_books[day], usage[day], self.today()] for day in days}
        return {day: hashlib.sha256(msgspec.json.encode(of_it)).hexdigest() for day, of_it in told.items()}

    async def _usage(self, days: Sequence[str]) -> dict[str, object]:
        """Each day's sums, and what is missing of it: one question as long as nothing is, else by halves."""
        answer = await self._meter.tokens(TokensQuery(day=days[0], to=days[-1], by=("day", "outcome")))
        if not answer.complete and len(days) > 1:
            half = len(days) // 2
            return {**await self._usage(days[:half]), **await self._usage(days[half:])}
        sums: dict[str, list[TokensRow]] = {day: [] for day in days}
        for row in answer.rows:
            sums[row.dimensions["day"]].append(row)
        return {day: (sums[day], answer.complete, answer.reasons) for day in days}
