"""Answers `billing.trail`: where the figures of a day come from, for everybody."""

from collections.abc import Awaitable, Callable, Sequence

from services.billing.app.database_outage import DATABASE_DOWN
from services.billing.app.day_reports import DayReports
from services.billing.core.revisions.trail import MAX_REVISIONS, KeptRevision, build_trail
from services.billing.core.utc_time import day_window
from shared.bus.reply import reply
from shared.errors import Rejected
from shared.messages.trail import Trail, TrailQuery

ReadRevisions = Callable[[str, int], Awaitable[Sequence[KeptRevision]]]
"""Returns a day's newest revisions, so many at most."""


class Trails:
    """Makes the trails of days that were reported. Asking about another day makes no report of it."""

    def __init__(self, reports: DayReports, revisions: ReadRevisions) -> None:
        self._reports = reports
        self._revisions = revisions

    async def answer(self, data: bytes) -> bytes:
        return await reply(data, TrailQuery, self._trail, DATABASE_DOWN, if_too_large="ask for the report")

    async def _trail(self, query: TrailQuery) -> Trail:
        try:
            day_window(query.day)
        except ValueError as error:
            raise Rejected(f"day: {error}") from error
        if not await self._revisions(query.day, 1):
            raise Rejected(f"day: {query.day} has no report")
        report, lines = await self._reports.explain(query.day)
        return build_trail(report, await self._revisions(query.day, MAX_REVISIONS + 1), lines)
