"""Makes each day's audit, keeps it, publishes it in the bucket `reports`, and answers `meter.audit`."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.audit_metrics import AuditMetrics
from services.meter.core.day import Day, parse_day
from services.meter.core.day_audit import audit_day, list_faults
from services.meter.core.engine_readings import day_of
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply, Tokens, TokensQuery
from shared.messages.meter_audit import Audit, AuditQuery

log = structlog.get_logger()

DAYS = 7
"""How far back a day is made again until it is final, or when events came after its audit."""
ANSWER_BYTES = 1_000_000
"""A little below what the bus carries in one message."""


class Auditor:
    """`tokens` is the answer to `meter.tokens`, which knows whether a day is complete."""

    def __init__(
        self,
        bus: Bus,
        facts: SqlAuditStore,
        tokens: Callable[[bytes], Awaitable[bytes]],
        metrics: AuditMetrics,
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._facts = facts
        self._tokens = tokens
        self._metrics = metrics
        self._now = now
        self._one = asyncio.Lock()
        """An audit may read a million events: one at a time."""

    async def answer(self, data: bytes) -> bytes:
        try:
            day = parse_day(decode(data, AuditQuery).day)
        except (Unreadable, ValueError) as error:
            return encode(ErrorReply(reason=str(error)))
        try:
            async with self._one:
                answer: Audit | ErrorReply = await self._of(day)
        except DATABASE_ERRORS as error:
            log.warning("the ledger cannot be read", reason=describe(error))
            answer = ErrorReply(reason="the ledger's database does not answer: ask again later")
        encoded = encode(answer)
        if len(encoded) > ANSWER_BYTES:
            return encode(
                ErrorReply(reason="the audit is larger than a message: too many machines and gateways in one day")
            )
        return encoded

    async def make_all(self) -> None:
        """Today's, and those of the last days that are not final. `BusUnavailable`, or what `DATABASE_ERRORS` lists."""
        wrong = 0
        days = [day_of(self._now() - n * 86400.0) for n in range(DAYS)]
        final = await self._facts.finals(days[-1].name)
        for day in days:
            events = await self._facts.events_of(day)
            if final.get(day.name) == events or (not events and day != days[0]):
                continue
            try:
                async with self._one:
                    made = await self._of(day)
            except (BusUnavailable, *DATABASE_ERRORS):
                raise  # of every day
            except Exception:
                wrong += 1
                log.exception("day_audit_failed", day=day.name)
                continue
            if isinstance(made, ErrorReply):
                log.warning("a day is not audited", day=day.name, reason=made.reason)
                continue
            wrong += len(list_faults(made))
            await self._facts.keep(made)
            await self._publish(made)
        self._metrics.wrong.set(wrong)

    async def _of(self, day: Day) -> Audit | ErrorReply:
        facts = await self._facts.day(day)
        if not facts.events_kept and (made := await self._facts.made(day.name)) is not None:
            return made
        found = await self._tokens(encode(TokensQuery(day=day.name)))
        try:
            tokens = decode(found, Tokens)
        except Unreadable:
            return decode(found, ErrorReply)
        backlog = await self._backlog()
        return audit_day(day, facts, tokens, now=self._now(), backlog=backlog)

    async def _backlog(self) -> int:
        """Of what is not known, something is under way."""
        try:
            return await self._bus.backlog(topology.LEDGER)
        except BusUnavailable as error:
            log.debug("the backlog is not known", reason=str(error))
            return 1

    async def _publish(self, made: Audit) -> None:
        await self._bus.put(topology.REPORTS, subjects.audit_key(made.day), encode(made))
