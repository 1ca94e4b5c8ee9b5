"""Exchanges reports with the other gateways: usage of the keys' limits, and leases on them.

If the bus is down for 10 s, each gateway takes itself for the only one, and until the bus is back N gateways admit at
most N times a limit. The same holds for gateways that start and do not receive each other's reports within 0.1 s. The
next reports end it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from services.gateway.core.rate_limits import RateLimiter
from shared.bus.ports import Bus, Received
from shared.bus.subjects import LIMITS, check_sender
from shared.bus.subjects import limits as limits_subject
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import QuotaReport

PERIOD_SECONDS = 2.0
QUIET_SECONDS = 0.01
"""Changes within this time share a message."""
QUIET_SECONDS_PER_KEY = 0.0001
"""Longer with many keys, so that reporting takes a bounded share of the CPU."""
HELLO_SECONDS = 0.025
HELLOS = 4
"""How often a new gateway reports, and waits for a reply, before it takes itself for the only one."""

log = structlog.get_logger()


class QuotaGossip:
    """Call `start`, then run the task `run`."""

    def __init__(self, bus: Bus, limiter: RateLimiter, gateway: str, now: Callable[[], float]) -> None:
        self._bus = bus
        self._limiter = limiter
        self._gateway = gateway
        self._now = now
        self._changed = asyncio.Event()
        self._reported_keys = 0
        self._is_subscribed = False
        self.on_news: Callable[[], None] = lambda: None
        """Called when a report, also one of its own, may have raised what this gateway may use."""
        limiter.on_change = self._changed.set

    async def start(self) -> None:
        """Learn what this gateway may use, or that no other gateway is there. Call this before the first request."""
        coordinator = self._limiter.coordinator
        await self._subscribe()
        for _ in range(HELLOS if self._is_subscribed else 0):
            await self.report()
            with suppress(TimeoutError):
                async with asyncio.timeout(HELLO_SECONDS):
                    while not coordinator.is_settled:
                        self._changed.clear()
                        await self._changed.wait()
            if coordinator.is_settled:
                break
        coordinator.start_serving()
        self._changed.set()

    async def run(self) -> None:
        while True:
            # A gateway that is alone only shows that it is there; otherwise a usage that has expired is news, too.
            stale_s = PERIOD_SECONDS if self._limiter.coordinator.is_alone else self._limiter.stale_at - self._now()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(PERIOD_SECONDS, max(QUIET_SECONDS, stale_s))):
                    await self._changed.wait()
            self._changed.clear()
            await self._subscribe()
            await self.report()
            self.on_news()
            await asyncio.sleep(QUIET_SECONDS + QUIET_SECONDS_PER_KEY * self._reported_keys)

    async def _subscribe(self) -> None:
        """Subscribe to the others' reports. While the bus is absent, `run` tries again."""
        if not self._is_subscribed:
            try:
                await self._bus.subscribe(LIMITS, self._on_message)
                self._is_subscribed = True
            except BusError as error:
                log.debug("quota_reports_not_received", error=str(error))

    async def report(self, *, leaving: bool = False) -> None:
        """Publish a report. After one with `leaving`, this gateway must admit nothing more."""
        message = self._limiter.report(self._now(), leaving=leaving)
        self._reported_keys = len(message.keys)
        try:
            await self._bus.publish_volatile(limits_subject(self._gateway), encode(message))
        except BusError as error:
            log.debug("quota_report_failed", error=str(error))

    async def _on_message(self, received: Received) -> None:
        try:
            message = decode(received.data, QuotaReport)
            check_sender(received.subject, message.gateway)
        except Unreadable as error:
            self._bus.rejections.record(LIMITS, error, subject=received.subject)
            return
        if self._limiter.coordinator.receive(message, self._now()):
            self._changed.set()
            self.on_news()
