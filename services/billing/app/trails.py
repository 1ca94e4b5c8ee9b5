"""Answers `billing.trail`: where the figures of a day come from, for everybody."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from services.billing.app.database_outage import DATABASE_DOWN
from services.billing.app.day_reports import DayReports
from services.billing.core.revisions.trail import MAX_REVISIONS, DayTrace, KeptRevision, build_trail
from services.billing.core.utc_time import day_window
from shared.bus.reply import reply
from shared.errors import Rejected
from shared.messages.invoices import SourceState
from shared.messages.trail import Trail, TrailQuery

ReadRevisions = Callable[[str, int], Awaitable[Sequence[KeptRevision]]]
"""Returns a day's newest revisions, so many at most."""
KEPT_S = 30.0
"""How long the last day's trace answers further queries: whoever pages through it makes billing read it once."""


class Trails:
    """Makes the trails of days that were reported. Asking about another day makes no report of it."""

    def __init__(
        self,
        reports: DayReports,
        revisions: ReadRevisions,
        sources: Callable[[], Iterable[SourceState]] = tuple,
        *,
        now: Callable[[], float],
    ) -> None:
        """`sources` are those that billing fetches by itself."""
        self._reports = reports
        self._revisions = revisions
        self._sources = sources
        self._now = now
        self._kept: tuple[str, float, DayTrace] | None = None

    async def answer(self, data: bytes) -> bytes:
        return await reply(data, TrailQuery, self._trail, DATABASE_DOWN, if_too_large="ask for fewer charges")

    async def _trail(self, query: TrailQuery) -> Trail:
        try:
            day_window(query.day)
        except ValueError as error:
            raise Rejected(f"day: {error}") from error
        if not await self._revisions(query.day, 1):
            raise Rejected(f"day: {query.day} has no report")
        trace = await self._trace(query)
        left_out = [source.name for source in self._sources() if source.reasons]
        kept = await self._revisions(query.day, MAX_REVISIONS + 1)
        return build_trail(trace, kept, query, sources_left_out=left_out)

    async def _trace(self, query: TrailQuery) -> DayTrace:
        """Return the day's trace; further charges are those of the trace that the first ones were from."""
        if query.charges_from and self._kept is not None:
            day, at, trace = self._kept
            if day == query.day and 0 <= self._now() - at < KEPT_S:
                return trace
        trace = await self._reports.trace(query.day)
        has_more = query.charges_from + query.most_charges < len(trace.charges)
        self._kept = (query.day, self._now(), trace) if query.most_charges and has_more else None
        return trace
