"""Answers `meter.tokens`, `meter.history` and `meter.figures`."""

from collections.abc import Callable

import structlog

from services.meter.app.database_outage import DATABASE_DOWN
from services.meter.app.recovery import Recovery
from services.meter.core.day_tokens import build_tokens, requested_days, with_reason
from services.meter.core.performance import build_figures, requested_hours
from services.meter.core.token_pages import tokens_page
from services.meter.metrics import Metrics
from services.meter.ports import Ledger, PerformanceReader
from shared.bus import topology
from shared.bus.ports import Bus
from shared.bus.reply import MAX_REPLY_BYTES, reply
from shared.errors import BusUnavailable
from shared.messages.meter import History, HistoryQuery, Tokens, TokensQuery
from shared.messages.meter_figures import Figures, FiguresQuery

log = structlog.get_logger()

PAGE_BYTES = MAX_REPLY_BYTES - 100_000
"""Bytes for a page's rows and busy times; the rest is left for totals and reasons."""


class Backlog:
    """How many messages of the stream the ledger does not have yet, and when there were none."""

    def __init__(self, bus: Bus, metrics: Metrics, now: Callable[[], float]) -> None:
        self._bus = bus
        self._metrics = metrics
        self._now = now
        self.empty_at: float | None = None
        """Unix seconds; None: the backlog was never empty."""

    async def refresh(self) -> None:
        checked_at = self._now()
        backlog = await self._bus.backlog(topology.LEDGER)
        self._metrics.backlog.set(backlog)
        if backlog == 0:
            self.empty_at = checked_at

    async def read_size(self) -> None:
        """Measure how full the stream is."""
        size = await self._bus.size(topology.USAGE)
        self._metrics.usage_stream_bytes.set(size.used_bytes)
        self._metrics.usage_stream_max_bytes.set(size.max_bytes or 0)


class LedgerQueries:
    """Each handler takes a request and returns its answer or an `ErrorReply`."""

    def __init__(
        self,
        ledger: Ledger,
        performance: PerformanceReader,
        backlog: Backlog,
        recovery: Recovery,
        *,
        now: Callable[[], float],
        source_silence_s: float,
    ) -> None:
        """`source_silence_s`: after so many seconds of silence a source has ended."""
        self._ledger = ledger
        self._performance = performance
        self._backlog = backlog
        self._recovery = recovery
        self._now = now
        self._source_silence_s = source_silence_s

    async def handle_tokens(self, data: bytes) -> bytes:
        fix = "ask for fewer dimensions, busy=false, or pages"
        return await reply(data, TokensQuery, self.read_tokens, DATABASE_DOWN, if_too_large=fix)

    async def handle_history(self, data: bytes) -> bytes:
        fix = "its models' names are too long together"
        return await reply(data, HistoryQuery, self._history, DATABASE_DOWN, if_too_large=fix)

    async def handle_figures(self, data: bytes) -> bytes:
        fix = "ask for fewer dimensions, or fewer days"
        return await reply(data, FiguresQuery, self._figures, DATABASE_DOWN, if_too_large=fix)

    async def _history(self, query: HistoryQuery) -> History:
        return await self._ledger.read_history(query)

    async def _figures(self, query: FiguresQuery) -> Figures:
        return build_figures(query, await self._performance.read(query, requested_hours(query)))

    async def read_tokens(self, query: TokensQuery) -> Tokens:
        """Return the sums of a day or of several; `Rejected` if the query is wrong or its answer too large."""
        day = requested_days(query)
        try:
            await self._backlog.refresh()
        except BusUnavailable as error:
            log.debug("backlog_not_refreshed", reason=str(error))
        active_since = self._now() - self._source_silence_s
        keys = query.keys or (() if query.key is None else (query.key,))
        facts = await self._ledger.read_day(day, query.by, busy=query.busy, keys=keys, active_since=active_since)
        tokens = build_tokens(
            day, query, facts, self._backlog.empty_at, now=self._now(), source_silence_s=self._source_silence_s
        )
        if not self._recovery.compared:
            reason = "the ledger has not been compared with its marks yet: see the meter's log"
            tokens = with_reason(tokens, reason)
        return tokens if query.after is None else tokens_page(tokens, query.by, query.after, PAGE_BYTES)
