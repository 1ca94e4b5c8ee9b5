"""Copies the fleet's journal into the database: commits first, then acknowledges. Repeated entries are ignored."""

import asyncio

from services.billing.metrics import Metrics
from services.billing.ports import TransitionStore, Unstorable
from shared.bus import subjects, topology
from shared.bus.ports import Bus, Delivery, Received
from shared.bus.replay import replay
from shared.journal_entries import decode_entry
from shared.messages.budget import Journalled
from shared.messages.codec import Unreadable
from shared.messages.waker import Transition

BATCH = 500
FETCH_SECONDS = 1.0
MARGIN_SECONDS = 3600.0
"""How far the clocks of wakers and the bus may differ."""
END = 253_402_300_800
"""Unix seconds at which the year 10000 begins: later times have no date."""


class FleetJournalReader:
    """Reads the journal while this replica leads."""

    def __init__(self, bus: Bus, books: TransitionStore, metrics: Metrics) -> None:
        self._bus = bus
        self._books = books
        self._metrics = metrics
        self._moved = asyncio.Event()
        self._newest_at: float | None = None
        """Of the newest transition in the database, when it was last read; None: it was not read yet."""

    async def wait_for_transition(self, seconds: float) -> None:
        """Return when the journal had a new transition since the last call, at the latest after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
        except TimeoutError:
            return
        self._moved.clear()

    async def read_batch(self) -> None:
        """Read one batch; only committed entries are acknowledged. Raises `BusUnavailable` or `DATABASE_ERRORS`."""
        await self._compare()
        deliveries = await self._bus.fetch(topology.BOOKS, batch=BATCH, wait=FETCH_SECONDS)
        transitions = [entry for delivery in deliveries if isinstance(entry := self._entry(delivery), Transition)]
        await self._record(transitions)
        self._metrics.transitions.inc(len(transitions))
        if transitions:
            self._newest_at = await self._books.newest() or 0.0
            self._moved.set()
        for delivery in deliveries:
            await delivery.ack()

    async def _compare(self) -> None:
        """Read the stream again if the database is not the one that it was: restored, or failed over to a replica."""
        newest = await self._books.newest()
        if self._newest_at is None or (newest or 0.0) < self._newest_at:
            await self._catch_up(newest)
            newest = await self._books.newest()
        self._newest_at = newest or 0.0

    async def _catch_up(self, newest: float | None) -> None:
        """Read again what the stream has beyond the newest transition in the database.

        The consumer does not deliver it: its position is from before the database went back.
        """
        since = None if newest is None else newest - MARGIN_SECONDS
        async for messages in replay(self._bus, topology.FLEET_JOURNAL, since=since, most=BATCH):
            await self._record([e for m in messages if isinstance(e := self._entry(m, again=True), Transition)])

    async def _record(self, transitions: list[Transition]) -> None:
        """Record all transitions at once. If one cannot be stored, record the others one by one."""
        try:
            await self._books.record(transitions)
        except Unstorable:
            for transition in transitions:
                try:
                    await self._books.record([transition])
                except Unstorable as error:
                    self._reject(subjects.journal(transition.machine), error)

    def _reject(self, subject: str, error: Exception) -> None:
        """Skip the entry. The stream keeps it, so nothing is lost; the machine's time stays unexplained."""
        self._bus.rejections.record(topology.FLEET_JOURNAL.name, error, subject=subject)
        self._metrics.unreadable.inc()

    def _entry(self, delivery: Delivery | Received, *, again: bool = False) -> Journalled | None:
        """Decode an entry; None if it is unreadable. `again`: the consumer reports it, so it is not reported here."""
        try:
            return _checked(decode_entry(delivery.subject, delivery.data))
        except Unreadable as error:
            if not again:
                self._reject(delivery.subject, error)
            return None


def _checked(entry: Journalled) -> Journalled:
    """The entry; `Unreadable` for a transition that no database of ours can hold."""
    if isinstance(entry, Transition):
        if not 0 <= entry.at < END:
            raise Unreadable("at: expected Unix seconds before the year 10000")
        for field in entry.__struct_fields__:
            value = getattr(entry, field)
            if isinstance(value, str) and "\0" in value:
                raise Unreadable(f"{field}: contains a NUL character")
    return entry
