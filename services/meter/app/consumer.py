"""Moves events from the stream to the ledger: fetch, commit, acknowledge, then publish the progress.

A message is acknowledged only after its transaction. If anything dies in between, the message is delivered again and
the ledger recognizes it. A fetched batch is retried until the database takes it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from services.meter.app.recorder import Recorder
from services.meter.core.record_result import RecordResult
from shared.bus import topology
from shared.bus.ports import Bus, Delivery
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable

log = structlog.get_logger()

FETCH_SECONDS = 0.5
"""How long a fetch waits for messages; also the longest that a drain waits for it."""
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
"""Between two attempts, doubled from the first: short enough to notice a recovery, long enough not to hammer."""
STUCK_SECONDS = 60.0
"""One cycle takes at most its fetch, its transaction and the pause; if it takes longer, something hangs."""


class Consumer:
    """One of any number of replicas. Once `stopped` returns, `run` ends the current batch and returns."""

    def __init__(
        self,
        bus: Bus,
        recorder: Recorder,
        *,
        batch_size: int,
        monotonic: Callable[[], float],
        stopped: Callable[[], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._recorder = recorder
        self._batch_size = batch_size
        self._monotonic = monotonic
        self._stopped = stopped
        self._cycle_started_at = monotonic()

    @property
    def fault(self) -> str | None:
        elapsed_s = self._monotonic() - self._cycle_started_at
        return f"the consumer has been stuck for {elapsed_s:.0f} s" if elapsed_s > STUCK_SECONDS else None

    async def run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not await self._is_stopped_within(0):
            self._cycle_started_at = self._monotonic()
            try:
                deliveries = await self._bus.fetch(topology.LEDGER, batch=self._batch_size, wait=FETCH_SECONDS)
            except BusUnavailable as error:
                log.warning("stream_read_failed", reason=str(error), retry_in_s=pause_s)
                await self._is_stopped_within(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            if deliveries:
                await self._settle(deliveries)

    async def _settle(self, deliveries: Sequence[Delivery]) -> None:
        result = await self._record([delivery.data for delivery in deliveries])
        if result is None:
            return
        try:
            for delivery in deliveries:
                await delivery.ack()
        except BusUnavailable as error:
            log.warning("acknowledgement_failed", reason=str(error), consequence="the messages are delivered again")
        await self._recorder.publish_progress(result)

    async def _record(self, payloads: Sequence[bytes]) -> RecordResult | None:
        """Record a batch; None if the process ends while the database is down: the messages stay unacknowledged."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._cycle_started_at = self._monotonic()
            try:
                return await self._recorder.record(payloads)
            except (BusUnavailable, *DATABASE_ERRORS) as error:
                log.warning("ledger_write_failed", reason=describe(error), retry_in_s=pause_s)
                if await self._is_stopped_within(pause_s):
                    return None
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _is_stopped_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._stopped()
        except TimeoutError:
            return False
        return True
