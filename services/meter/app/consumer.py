"""From the stream into the ledger: fetch, commit, then acknowledge, then tell the gateways.

A message is acknowledged only after its transaction: whatever dies in between, the message comes again, and the
ledger knows it. A batch in hand is tried until the database takes it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from services.meter.adapters.ledger import RecordResult
from services.meter.app.recorder import Recorder
from shared.bus import topology
from shared.bus.ports import Bus, Delivery
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable

log = structlog.get_logger()

FETCH_SECONDS = 0.5
"""How long an empty stream is waited for; also the most that a drain waits for it."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Between two tries, doubled from the first: short enough to notice the return, long enough not to hammer."""
STUCK_SECONDS = 60.0
"""A turn takes at most its fetch, its transaction and the pause; longer than this and something hangs."""


class Consumer:
    """One of any number of replicas. `run` returns once `stopped` has and the batch under way is done."""

    def __init__(
        self,
        bus: Bus,
        recorder: Recorder,
        *,
        batch: int,
        monotonic: Callable[[], float],
        stopped: Callable[[], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._recorder = recorder
        self._batch = batch
        self._monotonic = monotonic
        self._stopped = stopped
        self._turned_at = monotonic()

    @property
    def fault(self) -> str | None:
        still = self._monotonic() - self._turned_at
        return f"the consumer has not moved for {still:.0f} s" if still > STUCK_SECONDS else None

    async def run(self) -> None:
        pause = FIRST_PAUSE
        while not await self._ends_within(0):
            self._turned_at = self._monotonic()
            try:
                deliveries = await self._bus.fetch(topology.LEDGER, batch=self._batch, wait=FETCH_SECONDS)
            except BusUnavailable as error:
                log.warning("the stream cannot be read, trying again", reason=str(error))
                await self._ends_within(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if deliveries:
                await self._settle(deliveries)

    async def _settle(self, deliveries: Sequence[Delivery]) -> None:
        recorded = await self._record([delivery.data for delivery in deliveries])
        if recorded is None:
            return
        try:
            for delivery in deliveries:
                await delivery.ack()
        except BusUnavailable as error:
            log.warning("committed and not acknowledged, comes again", reason=str(error))
        try:
            await self._recorder.tell(recorded)
        except (BusUnavailable, *DATABASE_ERRORS) as error:
            log.warning("committed and not told yet", reason=describe(error))

    async def _record(self, payloads: Sequence[bytes]) -> RecordResult | None:
        """None: the process ends and the database is still away; the messages stay unacknowledged."""
        pause = FIRST_PAUSE
        while True:
            self._turned_at = self._monotonic()
            try:
                return await self._recorder.record(payloads)
            except (BusUnavailable, *DATABASE_ERRORS) as error:
                log.warning("the ledger cannot be written, trying again", reason=describe(error))
                if await self._ends_within(pause):
                    return None
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped()
        except TimeoutError:
            return False
        return True
