"""Carries the outbox to the bus: each event as often as it takes until the ledger has confirmed it.

The server's acknowledgement of a publish is not enough: the bus may lose its data. What the ledger has not
confirmed `RESEND_SECONDS` after it was sent is sent again; the ledger counts it once.
"""

import asyncio
from collections.abc import Callable
from itertools import islice

import structlog

from services.gateway.adapters.outbox import Outbox
from shared.bus.ports import Bus, Changed, WatchEvent
from shared.bus.subjects import confirmed_key, usage
from shared.bus.topology import METER
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Confirmed

WINDOW = 128
"""Events under way at once: enough to hide the server's latency, small against its buffers."""
RESEND_SECONDS = 30.0
RETRY_SECONDS = 1.0

log = structlog.get_logger()


class UsageSender:
    """One task, `run`; `wake` after each append."""

    def __init__(self, bus: Bus, outbox: Outbox, monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._outbox = outbox
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._sent: dict[str, int] = {}
        # Confirmed mark of each source, and when it last moved or was first sent beyond.
        self._progress: dict[str, tuple[int, float]] = {}

    def wake(self) -> None:
        self._wake.set()

    async def start(self) -> None:
        await self._bus.watch(METER, self._on_mark)

    async def run(self) -> None:
        while True:
            try:
                await self._step()
            except BusError as error:
                log.warning("usage waits for the bus", error=str(error), pending=self._outbox.pending)
                await asyncio.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def drain(self, seconds: float) -> None:
        """A last try to have everything sent; what is not stays on disk for the next boot."""
        try:
            async with asyncio.timeout(seconds):
                await self._step()
        except (TimeoutError, BusError) as error:
            log.warning("usage left in the outbox", pending=self._outbox.pending, error=str(error))

    async def _step(self) -> None:
        self._wake.clear()
        self._outbox.write_waiting()
        if job := self._outbox.unsynced():
            self._outbox.mark_synced(await asyncio.to_thread(job))
        for source in self._outbox.sources:
            self._rewind_if_stuck(source)
            await self._send(source)

    async def _send(self, source: str) -> None:
        durable = self._outbox.synced(source)
        if self._sent.get(source, 0) >= durable:
            return
        mark, _ = self._progress.get(source, (0, 0.0))
        if self._sent.get(source, 0) <= mark:
            self._progress[source] = (mark, self._monotonic())
        waiting = self._outbox.read(source, self._sent.get(source, 0))
        while window := [event for event in islice(waiting, WINDOW) if event.source_seq <= durable]:
            results = await asyncio.gather(*(self._publish(event) for event in window), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            self._sent[source] = window[-1].source_seq

    async def _publish(self, event: UsageEvent) -> None:
        await self._bus.publish(usage(event.source), encode(event), message_id=event.id)

    def _rewind_if_stuck(self, source: str) -> None:
        mark, moved_at = self._progress.get(source, (0, 0.0))
        if self._sent.get(source, 0) > mark and self._monotonic() - moved_at > RESEND_SECONDS:
            log.warning("usage not confirmed, sending again", source=source, confirmed=mark, sent=self._sent[source])
            self._sent[source] = mark

    def _on_mark(self, event: WatchEvent) -> None:
        if not isinstance(event, Changed) or event.value is None:
            return
        try:
            mark = decode(event.value, Confirmed)
        except Unreadable as error:
            log.error("unreadable mark", key=event.key, error=str(error))
            return
        if event.key == confirmed_key(mark.source) and mark.source in self._outbox.sources:
            self._progress[mark.source] = (mark.source_seq, self._monotonic())
            self._sent[mark.source] = max(self._sent.get(mark.source, 0), mark.source_seq)
            self._outbox.confirm(mark.source, mark.source_seq)
