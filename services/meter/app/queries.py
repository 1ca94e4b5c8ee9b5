"""Answers `meter.tokens`, `meter.history`, `meter.figures`: tokens of a day, what happened, how fast it was."""

from collections.abc import Callable

import structlog
from prometheus_client import Gauge

from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.performance import SqlPerformanceReader
from services.meter.app.recovery import Recovery
from services.meter.core import performance
from services.meter.core.day import build_tokens, requested_days, with_reason
from services.meter.core.token_pages import tokens_page
from shared.bus import topology
from shared.bus.ports import Bus
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable, Rejected
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply, History, HistoryQuery, Tokens, TokensQuery
from shared.messages.meter_figures import Figures, FiguresQuery

log = structlog.get_logger()

ANSWER_BYTES = 1_000_000
"""A little below what the bus carries in one message."""
PAGE_BYTES = ANSWER_BYTES - 100_000
"""For the rows and busy times of a page; the rest is for totals and reasons."""


class Backlog:
    """How much of the stream is not in the ledger yet, and when nothing was."""

    def __init__(self, bus: Bus, gauge: Gauge, now: Callable[[], float]) -> None:
        self._bus = bus
        self._gauge = gauge
        self._now = now
        self.read_dry_at: float | None = None

    async def look(self) -> None:
        looked_at = self._now()
        backlog = await self._bus.backlog(topology.LEDGER)
        self._gauge.set(backlog)
        if backlog == 0:
            self.read_dry_at = looked_at


class LedgerQueries:
    """Every request gets an answer: the figures, or what is wrong with the question or the database."""

    def __init__(
        self,
        ledger: SqlLedger,
        reader: SqlPerformanceReader,
        backlog: Backlog,
        recovery: Recovery,
        *,
        now: Callable[[], float],
        silence: float,
    ) -> None:
        """`silence`: seconds after which a source that says nothing has ended."""
        self._ledger = ledger
        self._reader = reader
        self._backlog = backlog
        self._recovery = recovery
        self._now = now
        self._silence = silence

    async def tokens(self, data: bytes) -> bytes:
        return _bounded(await self._tokens(data), "ask for fewer dimensions, busy=false, or pages")

    async def history(self, data: bytes) -> bytes:
        return _bounded(await self._history(data), "its models' names are too long together")

    async def figures(self, data: bytes) -> bytes:
        return _bounded(await self._figures(data), "ask for fewer dimensions, or fewer days")

    async def _history(self, data: bytes) -> History | ErrorReply:
        try:
            return await self._ledger.history(decode(data, HistoryQuery))
        except Unreadable as error:
            return ErrorReply(reason=str(error))
        except DATABASE_ERRORS as error:
            return _away(error)

    async def _figures(self, data: bytes) -> Figures | ErrorReply:
        try:
            query = decode(data, FiguresQuery)
            hours = performance.requested_hours(query)
        except (Unreadable, ValueError) as error:
            return ErrorReply(reason=str(error))
        try:
            return performance.build_figures(query, await self._reader.read(query, hours))
        except DATABASE_ERRORS as error:
            return _away(error)

    async def _tokens(self, data: bytes) -> Tokens | ErrorReply:
        try:
            query = decode(data, TokensQuery)
            day = requested_days(query)
        except (Unreadable, ValueError) as error:
            return ErrorReply(reason=str(error))
        try:
            await self._backlog.look()
        except BusUnavailable as error:
            log.debug("answering by the last look at the backlog", reason=str(error))
        try:
            since = self._now() - self._silence
            facts = await self._ledger.day(day, query.by, busy=query.busy, key=query.key, active_since=since)
        except Rejected as error:
            return ErrorReply(reason=str(error))
        except DATABASE_ERRORS as error:
            return _away(error)
        found = build_tokens(day, query, facts, self._backlog.read_dry_at, now=self._now(), silence=self._silence)
        if not self._recovery.compared:
            found = with_reason(found, "the ledger was not compared with its marks yet: see the meter's log")
        try:
            return found if query.after is None else tokens_page(found, query.by, query.after, PAGE_BYTES)
        except ValueError as error:
            return ErrorReply(reason=str(error))


def _away(error: Exception) -> ErrorReply:
    log.warning("the ledger cannot be read", reason=describe(error))
    return ErrorReply(reason="the ledger's database does not answer: ask again later")


def _bounded(message: Tokens | History | Figures | ErrorReply, fix: str) -> bytes:
    encoded = encode(message)
    if len(encoded) > ANSWER_BYTES:
        return encode(ErrorReply(reason=f"the answer is larger than a message: {fix}"))
    return encoded
