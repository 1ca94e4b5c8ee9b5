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
from shared.messages.meter import TokensQuery

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
        """One for each day in this order, as the books and the meter have it now."""
        marks = await self._marks.of(days)
        for day in days:
            yield await self._report(day, marks[day])

    async def reports(self, days: Sequence[str]) -> list[DayReport]:
        return [report async for report in self.each(days)]

    async def _report(self, day: str, of_books: str) -> DayReport:
        if millis(self._now()) < day_window(day).end + HOUR:
            return await self._reports.of(day)  # it changes with the clock
        usage = await self._meter.tokens(TokensQuery(day=day, by=("outcome",)))
        # A period is over, and its days are final, by the calendar alone.
        told = [of_books, usage, self.today()]
        mark = hashlib.sha256(msgspec.json.encode(told)).hexdigest()
        if self._made_with.get(day) == mark and (stored := await self._newest(day)) is not None:
            return stored[0]
        report = await self._reports.of(day)
        self._made_with[day] = mark
        return report
