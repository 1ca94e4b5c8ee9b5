"""From the fleet's journal into the books: transitions are committed, then acknowledged; told twice, kept once."""

import asyncio

import structlog

from services.billing.adapters.books import Books
from services.billing.metrics import Metrics
from shared.bus import topology
from shared.bus.ports import Bus, Delivery
from shared.messages.budget import Journalled
from shared.messages.codec import Decoder, Unreadable
from shared.messages.waker import Transition

log = structlog.get_logger()

BATCH = 500
FETCH_SECONDS = 1.0
_entries: Decoder[Journalled] = Decoder(Journalled)


class Journal:
    def __init__(self, bus: Bus, books: Books, metrics: Metrics) -> None:
        self._bus = bus
        self._books = books
        self._metrics = metrics
        self._moved = asyncio.Event()

    async def moved_within(self, seconds: float) -> None:
        """Returns once the journal has told something new since the last call, at the latest after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
        except TimeoutError:
            return
        self._moved.clear()

    async def read_on(self) -> None:
        """One batch. `BusUnavailable`, or what `AWAY` lists: nothing was acknowledged that is not committed."""
        deliveries = await self._bus.fetch(topology.BOOKS, batch=BATCH, wait=FETCH_SECONDS)
        found = [entry for delivery in deliveries if isinstance(entry := self._entry(delivery), Transition)]
        await self._books.record(found)
        self._metrics.transitions.inc(len(found))
        if found:
            self._moved.set()
        for delivery in deliveries:
            await delivery.ack()

    def _entry(self, delivery: Delivery) -> Journalled | None:
        try:
            return _entries.decode(delivery.data)
        except Unreadable as error:
            # The stream keeps it for good, so passing it by loses nothing; its time stays unexplained.
            log.error("unreadable journal entry", subject=delivery.subject, error=str(error))
            self._metrics.unreadable.inc()
            return None
