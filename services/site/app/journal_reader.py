"""Copies what the fleet's journal says of wakes into the site's database: commits first, then acknowledges."""

import asyncio
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Protocol

from services.site.core.wakes import WakeFact, fact_of
from shared.bus import topology
from shared.bus.ports import Bus, Delivery, Received
from shared.bus.replay import replay
from shared.journal_entries import decode_entry
from shared.messages.codec import Unreadable
from shared.units import Millis, to_seconds

BATCH = 500
FETCH_S = 1.0
MARGIN_S = 3600.0
"""How far the clocks of wakers and the bus may differ."""


class FactStore(Protocol):
    """Where the facts go. Each method raises what `DATABASE_ERRORS` lists while the database is down."""

    async def record(self, facts: Iterable[WakeFact]) -> None: ...

    async def newest(self) -> Millis | None: ...


class JournalReader:
    """Reads the journal. Any number of replicas share its consumer; an entry that comes twice is stored once."""

    def __init__(self, bus: Bus, store: FactStore, now: Callable[[], float]) -> None:
        self._bus = bus
        self._store = store
        self._now = now
        self._newest: Millis | None = None
        """Of the newest fact in the database, when it was last read; None: it was not read yet."""
        self.writing = asyncio.Lock()
        """Held while the database is used, so that the reader is never ended there."""
        self.read_at: float | None = None
        """When nothing was left to read, in Unix seconds; None: not yet since this process began."""

    async def read_batch(self) -> None:
        """Read one batch. After `BusUnavailable` or one of `DATABASE_ERRORS` nothing is lost."""
        async with self.writing:
            await self._compare()
        deliveries = await self._bus.fetch(topology.WAKE_HISTORY, batch=BATCH, wait=FETCH_S)
        async with self.writing:
            facts = self._facts(deliveries)
            await self._store.record(facts)
            if facts:
                self._newest = await self._store.newest() or Millis(0)
            for delivery in deliveries:
                await delivery.ack()
        if len(deliveries) < BATCH:
            self.read_at = self._now()

    async def _compare(self) -> None:
        """Read the journal again if the database is not the one that it was: new, restored, or failed over."""
        newest = await self._store.newest()
        if self._newest is None or (newest or 0) < self._newest:
            since = None if newest is None else to_seconds(newest) - MARGIN_S
            async for messages in replay(self._bus, topology.FLEET_JOURNAL, since=since, most=BATCH):
                await self._store.record(self._facts(messages, is_replay=True))
            newest = await self._store.newest()
        self._newest = newest or Millis(0)

    def _facts(self, messages: Iterable[Delivery | Received], *, is_replay: bool = False) -> list[WakeFact]:
        """Return what the messages say. `is_replay`: the consumer reports those that are unreadable."""
        facts: dict[str, WakeFact] = {}
        for message in messages:
            entry_id = sha256(message.data).hexdigest()
            try:
                fact = fact_of(decode_entry(message.subject, message.data), entry_id)
            except Unreadable as error:
                if not is_replay:
                    self._bus.rejections.record(topology.FLEET_JOURNAL.name, error, subject=message.subject)
                continue
            if fact is not None:
                facts[entry_id] = fact
        return list(facts.values())
