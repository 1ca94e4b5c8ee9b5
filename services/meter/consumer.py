"""From the stream into the ledger: fetch, commit, then acknowledge, then tell the gateways.

A message is acknowledged only after its transaction: whatever dies in between, the message comes again, and the
ledger knows it. A batch in hand is tried until the database takes it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from services.meter.adapters.ledger import Ledger, Recorded
from services.meter.core.batch import Batch, read
from services.meter.metrics import Metrics
from services.meter.teller import Teller
from shared.bus import topology
from shared.bus.ports import Bus, Delivery
from shared.database import AWAY, told
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
    """One of any number of replicas. `run` returns once `stopping` is set and the batch under way is done.

    `keep`: seconds after which an event is too old to be counted.
    """

    def __init__(
        self,
        bus: Bus,
        ledger: Ledger,
        teller: Teller,
        metrics: Metrics,
        *,
        batch: int,
        keep: float,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        stopped: Callable[[], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._teller = teller
        self._metrics = metrics
        self._batch = batch
        self._keep = keep
        self._now = now
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
        recorded = await self._record(read((d.data for d in deliveries), self._now(), keep=self._keep))
        if recorded is None:
            return
        try:
            for delivery in deliveries:
                await delivery.ack()
        except BusUnavailable as error:
            log.warning("committed and not acknowledged, comes again", reason=str(error))
        try:
            await self._teller.tell(recorded)
        except (BusUnavailable, *AWAY) as error:
            log.warning("committed and not told yet", reason=told(error))

    async def _record(self, batch: Batch) -> Recorded | None:
        """None: the process ends and the database is still away; the messages stay unacknowledged."""
        pause = FIRST_PAUSE
        while True:
            self._turned_at = self._monotonic()
            try:
                with self._metrics.batch_seconds.time():
                    recorded = await self._ledger.record(batch)
            except AWAY as error:
                self._metrics.database_faults.inc()
                log.warning("the ledger cannot be written, trying again", reason=told(error))
                if await self._ends_within(pause):
                    return None
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._count(recorded)
                return recorded

    def _count(self, recorded: Recorded) -> None:
        self._metrics.messages.labels("counted").inc(recorded.counted)
        self._metrics.messages.labels("repeated").inc(recorded.repeated)
        if recorded.conflicts:
            self._metrics.messages.labels("conflict").inc(recorded.conflicts)
            log.error("other payloads under known ids: the first ones count", conflicts=recorded.conflicts)
        for kind, number in recorded.quarantined.items():
            self._metrics.messages.labels("quarantined").inc(number)
            self._metrics.quarantined.labels(kind).inc(number)
            log.error("messages that cannot be counted are in quarantine", kind=kind, quarantined=number)
        for (what, name), unknown in recorded.unknown.items():
            self._metrics.unknown.labels(what).inc(unknown.events)
            log.warning("counted under a name that nobody knows", what=what, name=name, events=unknown.events)

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped()
        except TimeoutError:
            return False
        return True
