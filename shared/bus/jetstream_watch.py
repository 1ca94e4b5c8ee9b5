"""What is in NATS buckets, and watches that begin again by themselves; what the client raises, as our errors.

nats-py's own `watchall` takes a bucket for empty when the server's count of it overtakes the first values on their way,
which happens on a busy machine, and leaves a consumer on the server for 5 minutes, of which a stream has a limit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy

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


async def opened(
    js: JetStreamContext, stream: str, subject: str, policy: DeliverPolicy
) -> tuple[JetStreamContext.PushSubscription, int]:
    """A subscription to what is stored and what will be, and how many of its messages are stored now."""
    config = ConsumerConfig(filter_subject=subject, deliver_policy=policy)
    subscription = await js.subscribe(subject, stream=stream, ordered_consumer=True, config=config)
    info = await subscription.consumer_info()
    # Delivered may mean under way; both counts are of one moment.
    return subscription, (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)


async def newest(js: JetStreamContext, bucket: Bucket) -> tuple[JetStreamContext.PushSubscription, int]:
    """The same of a bucket: each key's newest value, or the mark of its deletion, and what is put from then on."""
    return await opened(js, f"KV_{bucket.name}", f"$KV.{bucket.name}.>", DeliverPolicy.LAST_PER_SUBJECT)


def changed(bucket: Bucket, message: Msg) -> Changed:
    headers = message.headers or {}
    deleted = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
    key = message.subject.removeprefix(f"$KV.{bucket.name}.")
    return Changed(key, None if deleted else message.data, message.metadata.sequence.stream)


class Watch:
    """One watch that begins again whenever `restart` is called."""

    def __init__(
        self,
        js: JetStreamContext,
        bucket: Bucket,
        on_event: Callable[[WatchEvent], None],
        on_stop: "Callable[[Watch], None]",
    ) -> None:
        self._js = js
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
                    subscription, stored = await newest(self._js, self._bucket)
                try:
                    self._on_event(Restarted())
                    if stored == 0:
                        self._on_event(Synced())
                    async for message in subscription.messages:
                        if asyncio.current_task() is not self._task:
                            return  # begun again, and the cancellation of this task was lost on its way
                        self._on_event(changed(self._bucket, message))
                        stored -= 1
                        if stored == 0:
                            self._on_event(Synced())
                finally:
                    await Stop(subscription.unsubscribe).stop()
            except BusUnavailable as error:
                log.warning("watch not begun, trying again", bucket=self._bucket.name, error=str(error))
                await asyncio.sleep(1.0)

    async def stop(self) -> None:
        self._on_stop(self)
        if self._task:
            await end([self._task])
