"""Reads the journal, and follows it across lost connections."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus, Received, Restarted, WatchEvent
from shared.bus.topology import FLEET, FLEET_JOURNAL
from shared.errors import BusUnavailable
from shared.messages.budget import Journalled
from shared.messages.codec import Decoder, Unreadable
from spotinference.terminal import print_line

ALL_SUBJECTS = FLEET_JOURNAL.subjects[0]
QUEUE_LIMIT = 1000
"""Entries heard and not told yet; at the bound they are let go, and the journal itself is read again."""
RECENT_LIMIT = 2 * QUEUE_LIMIT
"""Entries told last: what the bus says twice is told once."""
RETRY_SECONDS = 1.0
_decoder: Decoder[Journalled] = Decoder(Journalled)


async def read_journal(bus: JetStreamBus) -> list[Journalled]:
    """The whole journal, the oldest first."""
    return list(decode_entries(await bus.read(FLEET_JOURNAL)))


def decode_entries(found: Iterable[Received]) -> Iterator[Journalled]:
    """What can be read of it; a word on standard error for what cannot, which a newer waker may have written."""
    for received in found:
        try:
            entry = _decoder.decode(received.data)
        except Unreadable as error:
            print_line(f"spotinference: unreadable entry under {received.subject}: {error}", err=True)
        else:
            yield entry


class EntrySink(Protocol):
    def __call__(self, found: Iterable[Received], limit: int | None = None) -> None: ...


async def follow_journal(bus: Bus, subject: str, tell: EntrySink, limit: int | None) -> None:
    """For ever; `limit` is for what there is already."""
    tail = JournalTail()
    listening = await bus.subscribe(subject, tail.on_entry)
    watching = await bus.watch(FLEET, tail.on_event)
    try:
        while True:
            await tail.news.wait()
            tail.news.clear()
            if tail.behind:
                tail.behind = False
                try:
                    whole = await bus.read(FLEET_JOURNAL, subject)
                except BusUnavailable:
                    tail.fall_behind()
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                tell(tail.new_in(whole), limit)
                limit = None
            tell(tail.take_queued())
    finally:
        await watching.stop()
        await listening.stop()


class JournalTail:
    """The end of a journal that goes on. `behind`: it has to be read, since entries may have passed unheard.

    A connection that was lost has missed some: a watch, of whatever bucket, begins again with each connection.
    """

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.behind = False
        self._queue: deque[Received] = deque()
        self._recent: deque[bytes] = deque(maxlen=RECENT_LIMIT)

    async def on_entry(self, received: Received) -> None:
        if len(self._queue) == QUEUE_LIMIT:
            self._queue.clear()
            self.behind = True
        self._queue.append(received)
        self.news.set()

    def on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Restarted):
            self.fall_behind()

    def fall_behind(self) -> None:
        self.behind = True
        self.news.set()

    def new_in(self, whole: Sequence[Received]) -> Sequence[Received]:
        """What the journal has behind all that was told; the whole of it where that is not in it."""
        told = set(self._recent)
        place = next((n for n in range(len(whole), 0, -1) if whole[n - 1].data in told), 0)
        self._recent.extend(received.data for received in whole[place:])
        return whole[place:]

    def take_queued(self) -> list[Received]:
        """What was heard and not told yet."""
        found = []
        while self._queue:
            received = self._queue.popleft()
            if received.data not in self._recent:
                self._recent.append(received.data)
                found.append(received)
        return found
