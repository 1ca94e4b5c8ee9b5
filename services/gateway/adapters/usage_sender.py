"""Carries the outbox to the bus: each event as often as it takes until the ledger has confirmed it.

The server's acknowledgement of a publish is not enough: the bus may lose its data. Everything that is not confirmed
goes again after each reconnect, and after `RESEND_SECONDS` in which the ledger confirmed nothing; the ledger counts
an event once. What goes for the first time is held back by nothing but the bus: the stream is where it can wait.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class _Progress:
    """How far one source's events are."""

    subject: str
    first: Cursor
    """Up to here they were sent since the bus was last found to be there."""
    moved_at: float
    """When the mark last moved, or something was first sent beyond it."""
    again: Cursor | None = None
    """Up to here they were sent once more, on the way to `first`."""
    patience_s: float = RESEND_SECONDS
    announced: bool = False
    """Whether the bus knows the source: a meter counts nothing of one that it does not."""


@dataclass(slots=True)
class UsageSender:
    """One task, `run`; `wake` after each append."""

    bus: Bus
    outbox: Outbox
    monotonic: Callable[[], float]
    on_confirmed: Callable[[int], None] = lambda _seq: None
    """Called with each new mark of this boot's own events."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _progress: dict[str, _Progress] = field(default_factory=dict)
    _fault: str | None = None

    def wake(self) -> None:
        self._wake.set()

    async def start(self) -> None:
        await self.bus.watch(METER, self._on_event)

    async def run(self) -> None:
        while True:
            try:
                has_more = await self._step()
                self._log_fault(None)
                if has_more:
                    continue
            except (BusError, OSError) as error:
                self._log_fault(str(error))
                await asyncio.sleep(RETRY_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._wake.wait()
            await asyncio.sleep(GATHER_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Try a last time to have everything sent; what is not stays on disk for the next boot."""
        try:
            async with asyncio.timeout(seconds):
                while await self._step():
                    pass
        except (TimeoutError, BusError, OSError) as error:
            log.warning("usage_left_in_outbox", pending=self.outbox.pending, error=str(error))

    async def _step(self) -> bool:
        """Sync, then send a block of each source; return whether there is more already."""
        self._wake.clear()
        await self.outbox.sync()
        has_more = False
        for source in self.outbox.sources:
            progress = self._progress_of(source)
            self._resend_if_stuck(source, progress)
            has_more |= await self._send_new(source, progress)
            has_more |= await self._resend(source, progress)
        return has_more

    async def _send_new(self, source: str, progress: _Progress) -> bool:
        start = progress.first
        if start.seq <= self.outbox.mark(source):
            progress.moved_at = self.monotonic()
        end = await self._send(source, progress, start)
        if progress.first is start:  # else a mark or a reconnect has moved it meanwhile
            progress.first = end
        return progress.first.seq < self.outbox.synced(source)

    async def _resend(self, source: str, progress: _Progress) -> bool:
        start = progress.again
        if start is None or start.seq - self.outbox.mark(source) >= RESEND_EVENTS:
            return False
        end = await self._send(source, progress, start)
        if progress.again is start:
            progress.again = end if start.seq < end.seq < progress.first.seq else None
        return progress.again is not None

    async def _send(self, source: str, progress: _Progress, start: Cursor) -> Cursor:
        records, end = self.outbox.read(start)
        if records:
            if not progress.announced:
                await self.bus.put(SOURCES, source_key(source), encode(UsageSource(source=source, at=time.time())))
                progress.announced = True
            await self.bus.publish_all([(progress.subject, record.payload, record.id) for record in records])
        return end

    def _resend_if_stuck(self, source: str, progress: _Progress) -> None:
        mark = self.outbox.mark(source)
        if progress.first.seq > mark and self.monotonic() - progress.moved_at > progress.patience_s:
            log.warning("usage_not_confirmed", source=source, confirmed=mark, sent=progress.first.seq)
            progress.again, progress.moved_at = Cursor(source, mark), self.monotonic()
            progress.patience_s = min(2 * progress.patience_s, RESEND_SECONDS_MOST)

    def _progress_of(self, source: str) -> _Progress:
        if source not in self._progress:
            start = Cursor(source, self.outbox.mark(source))
            self._progress[source] = _Progress(usage(source), start, self.monotonic())
        return self._progress[source]

    def _on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Synced):
            # The watch has begun (again), so the bus was away, maybe with all that it had: everything goes again.
            self._progress.clear()
            self.wake()
        elif isinstance(event, Changed) and event.value is not None and event.key.startswith(CONFIRMED):
            try:
                mark = decode(event.value, Confirmed)
                if event.key == confirmed_key(mark.source):
                    self._confirm(mark.source, mark.source_seq)
            except Exception as error:  # noqa: BLE001 - it concerns this mark alone
                # A mark that nothing can be done with, or a disk that fails: the next mark takes it along.
                has_fault = not isinstance(error, Unreadable)
                self.bus.rejections.record(METER.name, error, traceback=has_fault, entry=event.key)

    def _confirm(self, source: str, mark: int) -> None:
        if not self.outbox.confirm(source, mark):
            return
        if source not in self.outbox.sources:
            self._progress.pop(source, None)  # an earlier boot's, and all of it is in the ledger
            return
        mark, progress = self.outbox.mark(source), self._progress_of(source)
        progress.moved_at, progress.patience_s = self.monotonic(), RESEND_SECONDS
        if progress.first.seq < mark:
            progress.first = Cursor(source, mark)
        if progress.again and progress.again.seq < mark:
            progress.again = Cursor(source, mark)
        if source == self.outbox.source:
            self.on_confirmed(mark)

    def _log_fault(self, fault: str | None) -> None:
        """Log once that something is in the way, and once that it no longer is."""
        if fault and not self._fault:
            log.warning("usage_delayed", reason=fault, pending=self.outbox.pending)
        elif self._fault and not fault:
            log.info("usage_resumed", pending=self.outbox.pending)
        self._fault = fault
