"""Reports to the waker what this gateway does with each machine: every 2 s, and at once when it matters."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from services.gateway.core.scheduler import RequestScheduler
from shared.bus.ports import Bus
from shared.bus.subjects import activity
from shared.errors import BusError
from shared.messages.codec import encode
from shared.messages.gateway import Activity

PERIOD_SECONDS = 2.0
QUIET_SECONDS = 0.25
"""Changes within this time share a message: a busy gateway would otherwise publish each request."""

log = structlog.get_logger()


@dataclass(slots=True)
class ActivityReporter:
    """Runs one task, `run`. Call `changed` when a machine's first request begins, its last ends, or it drains."""

    bus: Bus
    scheduler: RequestScheduler
    gateway: str
    revision: Callable[[str], int]
    """Returns the revision of a machine's record."""
    last_seq: Callable[[], int]
    """Returns the `source_seq` of the newest usage event."""
    now: Callable[[], float]
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            await self.report()
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS - QUIET_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(QUIET_SECONDS)

    async def report(self, *, leaving: bool = False) -> None:
        now = self.now()
        machines = self.scheduler.activity(self.revision, now)
        message = Activity(
            gateway=self.gateway, sent_at=now, machines=machines, leaving=leaving, written=self.last_seq()
        )
        try:
            await self.bus.publish_volatile(activity(self.gateway), encode(message))
        except BusError as error:
            log.debug("activity_not_published", error=str(error))
