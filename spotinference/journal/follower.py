"""Reads the journal, and follows it across lost connections."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus, Received, Restarted, WatchEvent
from shared.bus.topology import FLEET, FLEET_JOURNAL
from shared.errors import BusUnavailable
from shared.journal_entries import decode_entry
from shared.messages.budget import Journalled
from shared.messages.codec import Unreadable
from spotinference.terminal import print_line

ALL_SUBJECTS = FLEET_JOURNAL.subjects[0]
QUEUE_LIMIT = 1000
"""Entries received and not shown yet. At the limit they are dropped, and the journal itself is read again."""
RECENT_LIMIT = 2 * QUEUE_LIMIT
"""Entries shown last, to show an entry once that the bus delivers twice."""
RETRY_SECONDS = 1.0


async def read_journal(bus: JetStreamBus) -> list[Journalled]:
    """Return the whole journal, oldest entry first."""
    return list(decode_entries(await bus.read(FLEET_JOURNAL)))


def decode_entries(messages: Iterable[Received]) -> Iterator[Journalled]:
    """Yield the entries that can be decoded; others, perhaps of a newer waker, get a line on standard error."""
    for received in messages:
        try:
            entry = decode_entry(received.subject, received.data)
        except Unreadable as error:
            print_line(f"spotinference: skipped an entry under {received.subject}: {error}", err=True)
        else:
            yield entry


class OnEntries(Protocol):
    """Called with new messages; `limit` is how many of the newest to show."""

    def __call__(self, messages: Iterable[Received], limit: int | None = None) -> object: ...


async def follow_journal(bus: Bus, subject: str, on_entries: OnEntries, limit: int | None) -> None:
    """Pass on every entry, forever. `limit` applies to those that exist already."""
    tail = JournalTail()
    subscription = await bus.subscribe(subject, tail.on_entry)
    watch = await bus.watch(FLEET, tail.on_event)
    try:
        while True:
            await tail.changed.wait()
            tail.changed.clear()
            if tail.must_reread:
                tail.must_reread = False
                try:
                    whole = await bus.read(FLEET_JOURNAL, subject)
                except BusUnavailable:
                    tail.request_reread()
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                on_entries(tail.new_in(whole), limit)
                limit = None
            on_entries(tail.take_queued())
    finally:
        await watch.stop()
        await subscription.stop()


class JournalTail:
    """The end of a growing journal. `must_reread`: entries may have been missed, so the journal has to be read.

    A connection that was lost has missed some. A watch on any bucket starts again with each new connection.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.must_reread = False
        self._queue: deque[Received] = deque()
        self._recent: deque[bytes] = deque(maxlen=RECENT_LIMIT)

    async def on_entry(self, received: Received) -> None:
        if len(self._queue) == QUEUE_LIMIT:
            self._queue.clear()
            self.must_reread = True
        self._queue.append(received)
        self.changed.set()

    def on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Restarted):
            self.request_reread()

    def request_reread(self) -> None:
        self.must_reread = True
        self.changed.set()

    def new_in(self, whole: Sequence[Received]) -> Sequence[Received]:
        """Return the entries after the last one that was shown; all of them if that one is not in the journal."""
        shown = set(self._recent)
        start = next((n for n in range(len(whole), 0, -1) if whole[n - 1].data in shown), 0)
        self._recent.extend(received.data for received in whole[start:])
        return whole[start:]

    def take_queued(self) -> list[Received]:
        """Return the entries that were received and not shown yet."""
        entries = []
        while self._queue:
            received = self._queue.popleft()
            if received.data not in self._recent:
                self._recent.append(received.data)
                entries.append(received)
        return entries
