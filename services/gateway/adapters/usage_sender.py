"""Carries the outbox to the bus: each event as often as it takes until the ledger has confirmed it.

The server's acknowledgement of a publish is not enough: the bus may lose its data. Everything that is not confirmed
goes again after each reconnect, and after `RESEND_SECONDS` in which the ledger confirmed nothing; the ledger counts
an event once. What goes for the first time is held back by nothing but the bus: the stream is where it can wait.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from services.gateway.adapters.outbox import Cursor, Outbox
from shared.bus.ports import Bus, Changed, Synced, WatchEvent
from shared.bus.subjects import confirmed_key, source_key, usage
from shared.bus.topology import METER, SOURCES
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import UsageSource
from shared.messages.meter import Confirmed

GATHER_SECONDS = 0.25
"""From the first event to its sending, for more to come: a sync and an answer of the bus are paid for all of them.

Longer than seems needed: each sending wakes a cold processor and delays the request that comes just then.
"""
RESEND_SECONDS = 30.0
RESEND_SECONDS_MOST = 3600.0
"""The patience doubles up to this while the ledger is away, so that the stream does not fill with repetitions."""
RESEND_EVENTS = 20_000
"""At most so many go again beyond the mark: a loss shows right behind it, and the rest follows as it moves."""
RETRY_SECONDS = 1.0

CONFIRMED = confirmed_key("x").removesuffix("x")

log = structlog.get_logger()


@dataclass
class _Way:
    """How far one source's events are."""

    subject: str
    first: Cursor
    """Up to here they were sent since the bus was last found to be there."""
    again: Cursor | None
    """Up to here they were sent once more, on the way to `first`."""
    moved_at: float
    """When the mark last moved, or something was first sent beyond it."""
    patience: float = RESEND_SECONDS
    announced: bool = False
    """Whether the bus knows the source: a meter counts nothing of one that it does not."""


class UsageSender:
    """One task, `run`; `wake` after each append. `on_confirmed` hears of each new mark of this boot's own events."""

    def __init__(
        self,
        bus: Bus,
        outbox: Outbox,
        monotonic: Callable[[], float],
        on_confirmed: Callable[[int], None] = lambda _seq: None,
    ) -> None:
        self._bus = bus
        self._outbox = outbox
        self._monotonic = monotonic
        self._on_confirmed = on_confirmed
        self._wake = asyncio.Event()
        self._ways: dict[str, _Way] = {}
        self._fault: str | None = None

    def wake(self) -> None:
        self._wake.set()

    async def start(self) -> None:
        await self._bus.watch(METER, self._on_event)

    async def run(self) -> None:
        while True:
            try:
                more = await self._step()
                self._tell(None)
                if more:
                    continue
            except (BusError, OSError) as error:
                self._tell(str(error))
                await asyncio.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_SECONDS)

    async def drain(self, seconds: float) -> None:
        """A last try to have everything sent; what is not stays on disk for the next boot."""
        try:
            async with asyncio.timeout(seconds):
                while await self._step():
                    pass
        except (TimeoutError, BusError, OSError) as error:
            log.warning("usage left in the outbox", pending=self._outbox.pending, error=str(error))

    async def _step(self) -> bool:
        """Sync, then send a block of each source; whether there is more already."""
        self._wake.clear()
        await self._outbox.sync()
        more = False
        for source in self._outbox.sources:
            way = self._way(source)
            self._resend_if_stuck(source, way)
            more |= await self._send_first(source, way)
            more |= await self._send_again(source, way)
        return more

    async def _send_first(self, source: str, way: _Way) -> bool:
        begun = way.first
        if begun.seq <= self._outbox.mark(source):
            way.moved_at = self._monotonic()
        reached = await self._send(source, way, begun)
        if way.first is begun:  # else a mark or a reconnect has moved it meanwhile
            way.first = reached
        return way.first.seq < self._outbox.synced(source)

    async def _send_again(self, source: str, way: _Way) -> bool:
        begun = way.again
        if begun is None or begun.seq - self._outbox.mark(source) >= RESEND_EVENTS:
            return False
        reached = await self._send(source, way, begun)
        if way.again is begun:
            way.again = reached if begun.seq < reached.seq < way.first.seq else None
        return way.again is not None

    async def _send(self, source: str, way: _Way, cursor: Cursor) -> Cursor:
        records, reached = self._outbox.read(cursor)
        if records:
            if not way.announced:
                await self._bus.put(SOURCES, source_key(source), encode(UsageSource(source=source, at=time.time())))
                way.announced = True
            await self._bus.publish_all([(way.subject, r.payload, r.id) for r in records])
        return reached

    def _resend_if_stuck(self, source: str, way: _Way) -> None:
        mark = self._outbox.mark(source)
        if way.first.seq > mark and self._monotonic() - way.moved_at > way.patience:
            log.warning("usage not confirmed, sending again", source=source, confirmed=mark, sent=way.first.seq)
            way.again = Cursor(source, mark)
            way.moved_at = self._monotonic()
            way.patience = min(2 * way.patience, RESEND_SECONDS_MOST)

    def _way(self, source: str) -> _Way:
        way = self._ways.get(source)
        if way is None:
            begin = Cursor(source, self._outbox.mark(source))
            way = self._ways[source] = _Way(usage(source), begin, None, self._monotonic())
        return way

    def _on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Synced):
            # The watch has begun (again), so the bus was away, maybe with all that it had: everything goes again.
            self._ways.clear()
            self.wake()
        elif isinstance(event, Changed) and event.value is not None and event.key.startswith(CONFIRMED):
            try:
                self._confirm(event.key, decode(event.value, Confirmed))
            except Unreadable as error:
                self._bus.intake.reject(METER.name, error, entry=event.key)
            except Exception as error:  # noqa: BLE001 - it concerns this mark alone
                # A mark that nothing can be done with, or a disk that fails: the next mark takes it along.
                self._bus.intake.reject(METER.name, error, traceback=True, entry=event.key)

    def _confirm(self, key: str, mark: Confirmed) -> None:
        if key == confirmed_key(mark.source) and self._outbox.confirm(mark.source, mark.source_seq):
            self._on_moved(mark.source)

    def _on_moved(self, source: str) -> None:
        if source not in self._outbox.sources:
            self._ways.pop(source, None)  # an earlier boot's, and all of it is in the ledger
            return
        mark, way = self._outbox.mark(source), self._way(source)
        way.moved_at, way.patience = self._monotonic(), RESEND_SECONDS
        if way.first.seq < mark:
            way.first = Cursor(source, mark)
        if way.again and way.again.seq < mark:
            way.again = Cursor(source, mark)
        if source == self._outbox.source:
            self._on_confirmed(mark)

    def _tell(self, fault: str | None) -> None:
        """Once that something is in the way, and once that it no longer is."""
        if fault and not self._fault:
            log.warning("usage waits", reason=fault, pending=self._outbox.pending)
        elif self._fault and not fault:
            log.info("usage goes on", pending=self._outbox.pending)
        self._fault = fault
