"""Watches of NATS buckets that begin again by themselves; what the client raises, as our errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from nats.js.kv import KeyValue

from shared.bus.ports import Changed, Restarted, Synced, WatchEvent
from shared.bus.topology import Bucket
from shared.errors import BusUnavailable, Conflict
from shared.tasks import end

STOP_SECONDS = 2.0
"""For a last word to the server; one that is gone answers nothing."""

log = structlog.get_logger()


@asynccontextmanager
async def unavailable(what: str) -> AsyncIterator[None]:
    """Everything the client raises for an absent, slow or moving server becomes `BusUnavailable`."""
    try:
        yield
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
        raise BusUnavailable(f"{what}: {str(error) or type(error).__name__}") from error


@asynccontextmanager
async def conflict(what: str) -> AsyncIterator[None]:
    """Around `unavailable`: a revision that is not the newest one becomes `Conflict`."""
    try:
        yield
    except BusUnavailable as error:
        if isinstance(error.__cause__, nats.js.errors.KeyWrongLastSequenceError):
            raise Conflict(what) from error
        raise


class Stop:
    """Ends something of a connection that may have ended first."""

    def __init__(self, stop: Callable[[], Awaitable[Any]]) -> None:
        self._stop = stop

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._stop()
        except (nats.errors.Error, TimeoutError) as error:
            log.debug("already gone with its connection", error=str(error))


class Watch:
    """One watch that begins again whenever `restart` is called."""

    def __init__(
        self,
        kv: Callable[[Bucket], Awaitable[KeyValue]],
        bucket: Bucket,
        on_event: Callable[[WatchEvent], None],
        on_stop: "Callable[[Watch], None]",
    ) -> None:
        self._kv = kv
        self._bucket = bucket
        self._on_event = on_event
        self._on_stop = on_stop
        self._task: asyncio.Task[None] | None = None

    def restart(self) -> None:
        if self._task:
            self._task.cancel()
        self._task = asyncio.create_task(self._run(), name=f"watch {self._bucket.name}")

    async def _run(self) -> None:
        while True:
            try:
                async with unavailable(f"watch {self._bucket.name}"):
                    watcher = await (await self._kv(self._bucket)).watchall()
                try:
                    self._on_event(Restarted())
                    async for entry in watcher:
                        if asyncio.current_task() is not self._task:
                            return  # begun again, and the cancellation of this task was lost on its way
                        self._on_event(_watch_event(entry))
                finally:
                    await Stop(watcher.stop).stop()
            except BusUnavailable as error:
                log.warning("watch not begun, trying again", bucket=self._bucket.name, error=str(error))
                await asyncio.sleep(1.0)

    async def stop(self) -> None:
        self._on_stop(self)
        if self._task:
            await end([self._task])


def _watch_event(entry: KeyValue.Entry | None) -> WatchEvent:
    if entry is None:
        return Synced()
    deleted = entry.operation is not None
    return Changed(entry.key, None if deleted else entry.value or b"", entry.revision or 0)
