"""Publishes the outbox: each event as often as needed until the ledger has confirmed it.

The server's acknowledgement of a publish is not enough, since the bus may lose its data. Everything unconfirmed is sent
again after each reconnect, and after `RESEND_SECONDS` without a confirmation; the ledger counts each event once. Only
the bus itself holds back new events: the stream is where they can wait.
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
"""From the first event to the sending, to gather more: one sync and one round trip serve all of them.

Longer than seems needed, since each sending wakes a cold CPU and delays a request that arrives just then.
"""
RESEND_SECONDS = 30.0
RESEND_SECONDS_MOST = 3600.0
"""The wait doubles up to this while the ledger is down, so that the stream does not fill with repetitions."""
RESEND_EVENTS = 20_000
"""Events resent beyond the mark at most: a loss shows right after the mark, and the rest follows as it moves."""
RETRY_SECONDS = 1.0

CONFIRMED = confirmed_key("x").removesuffix("x")

log = structlog.get_logger()


@dataclass(slots=True)
class _Progress:
    """How far the events of one source have been sent."""

    subject: str
    first: Cursor
    """Sent up to here since the bus last connected."""
    moved_at: float
    """When the mark last moved, or when something was first sent beyond it."""
    again: Cursor | None = None
    """Resent up to here, on the way to `first`; None: nothing is being resent."""
    patience_s: float = RESEND_SECONDS
    announced: bool = False
    """Whether the source has been announced on the bus: a meter counts no events of an unknown source."""


@dataclass(slots=True)
class UsageSender:
    """Runs one task, `run`. Call `wake` after each append."""

    bus: Bus
    outbox: Outbox
    monotonic: Callable[[], float]
    on_confirmed: Callable[[int], None] = lambda _seq: None
    """Called with each new mark of this boot's own source."""
    on_restart: Callable[[], None] = lambda: None
    """Called when the bus was down and may have lost its data."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _progress: dict[str, _Progress] = field(default_factory=dict)
    _fault: str | None = None

    def wake(self) -> None:
        self._wake.set()

    async def start(self, age_s: float = 0.0) -> None:
        """Follow the marks. `age_s` is how long ago a bus that is absent was last there."""
        await self.bus.watch(METER, self._on_event, age_s=age_s)

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
        """Try once more to send everything; the rest stays on disk for the next boot."""
        try:
            async with asyncio.timeout(seconds):
                while await self._step():
                    pass
        except (TimeoutError, BusError, OSError) as error:
            log.warning("usage_left_in_outbox", pending=self.outbox.pending, error=str(error))

    async def _step(self) -> bool:
        """Sync, then send a block of each source; return whether more is ready."""
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
        if progress.first is start:  # otherwise a mark or a reconnect has moved it meanwhile
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
            # The watch has restarted, so the bus was down and may have lost its data: send everything again.
            self._progress.clear()
            self.on_restart()
            self.wake()
        elif isinstance(event, Changed) and event.value is not None and event.key.startswith(CONFIRMED):
            try:
                mark = decode(event.value, Confirmed)
                if event.key == confirmed_key(mark.source):
                    self._confirm(mark.source, mark.source_seq)
            except Exception as error:  # noqa: BLE001 - affects this mark alone
                # An unusable mark or a failing disk: the next mark covers this one.
                has_fault = not isinstance(error, Unreadable)
                self.bus.rejections.record(METER.name, error, traceback=has_fault, entry=event.key)

    def _confirm(self, source: str, mark: int) -> None:
        if not self.outbox.confirm(source, mark):
            return
        if source not in self.outbox.sources:
            self._progress.pop(source, None)  # an earlier boot's source, now complete in the ledger
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
        """Log a fault once when it begins, and once when it is over."""
        if fault and not self._fault:
            log.warning("usage_delayed", reason=fault, pending=self.outbox.pending)
        elif self._fault and not fault:
            log.info("usage_resumed", pending=self.outbox.pending)
        self._fault = fault
