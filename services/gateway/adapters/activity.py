"""Tells the waker what this gateway does with each machine: every 2 s, and at once when it matters."""

import asyncio
from collections.abc import Callable

import structlog

from services.gateway.core.scheduler import RequestScheduler
from shared.bus.ports import Bus
from shared.bus.subjects import activity
from shared.errors import BusError
from shared.messages.codec import encode
from shared.messages.gateway import Activity

PERIOD_SECONDS = 2.0
QUIET_SECONDS = 0.25
"""Changes within this are told in one message: a busy gateway would otherwise tell each request."""

log = structlog.get_logger()


class ActivityReporter:
    """One task, `run`; `changed` when a machine got its first request, lost its last, or began to drain."""

    def __init__(
        self,
        bus: Bus,
        scheduler: RequestScheduler,
        gateway: str,
        *,
        revision: Callable[[str], int],
        written: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        """`written`: the number of the newest usage event."""
        self._bus = bus
        self._scheduler = scheduler
        self._gateway = gateway
        self._revision = revision
        self._written = written
        self._now = now
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            await self.report()
            try:
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._changed.wait()
                await asyncio.sleep(QUIET_SECONDS)
            except TimeoutError:
                continue

    async def report(self, *, leaving: bool = False) -> None:
        now = self._now()
        machines = self._scheduler.activity(self._revision, now)
        message = Activity(
            gateway=self._gateway,
            sent_at=now,
            machines=machines,
            leaving=leaving,
            written=self._written(),
        )
        try:
            await self._bus.publish_volatile(activity(self._gateway), encode(message))
        except BusError as error:
            log.debug("activity not told", error=str(error))
