"""Audits each day, stores the audit, publishes it in the bucket `reports`, and answers `meter.audit`."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.meter.app.database_outage import DATABASE_DOWN
from services.meter.core.day import Day, day_of, parse_day
from services.meter.core.day_audit import audit_day, list_faults
from services.meter.metrics import AuditMetrics
from services.meter.ports import AuditStore
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.bus.reply import reply
from shared.database import DATABASE_ERRORS
from shared.errors import BusUnavailable, Rejected
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply, Tokens, TokensQuery
from shared.messages.meter_audit import Audit, AuditQuery
from shared.units import DAY_S

log = structlog.get_logger()

DAYS = 7
"""How far back days are audited again: those that are not final, or got events after their audit."""


class Auditor:
    """`query_tokens` answers `meter.tokens`, which knows whether a day is complete."""

    def __init__(
        self,
        bus: Bus,
        store: AuditStore,
        query_tokens: Callable[[bytes], Awaitable[bytes]],
        metrics: AuditMetrics,
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._store = store
        self._query_tokens = query_tokens
        self._metrics = metrics
        self._now = now
        self._lock = asyncio.Lock()
        """An audit may read a million events: one at a time."""

    async def handle_audit(self, data: bytes) -> bytes:
        async def audit(query: AuditQuery) -> Audit:
            day = parse_day(query.day)
            async with self._lock:
                return await self._audit(day)

        too_large = "too many machines and gateways in one day"
        return await reply(data, AuditQuery, audit, DATABASE_DOWN, if_too_large=too_large)

    async def audit_recent_days(self) -> None:
        """Audit today and the last days that are not final.

        Raises `BusUnavailable` or one of `DATABASE_ERRORS`; the next call tries again.
        """
        wrong = 0
        days = [day_of(self._now() - n * DAY_S) for n in range(DAYS)]
        final_counts = await self._store.final_event_counts(days[-1].name)
        for day in days:
            events = await self._store.count_events(day)
            if final_counts.get(day.name) == events or (not events and day != days[0]):
                continue
            try:
                async with self._lock:
                    audit = await self._audit(day)
            except (BusUnavailable, *DATABASE_ERRORS):
                raise  # it would fail for every day
            except Rejected as error:
                log.warning("day_audit_refused", day=day.name, reason=str(error))
                continue
            except Exception:
                wrong += 1
                log.exception("day_audit_failed", day=day.name)
                continue
            wrong += len(list_faults(audit))
            await self._store.save_audit(audit)
            await self._publish(audit)
        self._metrics.wrong.set(wrong)

    async def _audit(self, day: Day) -> Audit:
        facts = await self._store.load_day(day)
        if not facts.events_kept and (stored := await self._store.load_audit(day.name)) is not None:
            return stored
        answer = await self._query_tokens(encode(TokensQuery(day=day.name)))
        try:
            tokens = decode(answer, Tokens)
        except Unreadable:
            raise Rejected(decode(answer, ErrorReply).reason) from None
        backlog = await self._backlog()
        return audit_day(day, facts, tokens, now=self._now(), backlog=backlog)

    async def _backlog(self) -> int:
        """Return the stream's backlog; 1 if it is unknown, as something may be under way."""
        try:
            return await self._bus.backlog(topology.LEDGER)
        except BusUnavailable as error:
            log.debug("backlog_unknown", reason=str(error))
            return 1

    async def _publish(self, audit: Audit) -> None:
        await self._bus.put(topology.REPORTS, subjects.audit_key(audit.day), encode(audit))
