"""Reads and watches NATS buckets. A watch restarts by itself. The client's errors become ours.

nats-py's own `watchall` has two faults. On a busy machine the server's count of a bucket can overtake the first values,
and the bucket then seems empty. It also leaves a consumer on the server for 5 minutes, which a stream limits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, ConsumerInfo, DeliverPolicy

from shared.bus.ports import Changed, Restarted, Synced, WatchEvent
from shared.bus.rejections import Rejections
from shared.bus.topology import Bucket
from shared.errors import BusUnavailable, Conflict
from shared.tasks import cancel_and_wait

STOP_SECONDS = 2.0
"""For the last call to the server: one that is gone does not answer."""

RESTART_SECONDS = 1.0
"""Before a watch is restarted."""
CHECK_SECONDS = 5.0
"""Between two checks whether a watch is current: one small request for each watch."""
BEHIND_CHECKS = 3
"""A watch restarts after so many checks at which the server had undelivered entries and none arrived."""
WRONG_REVISION = (10071, 10164)
"""The server's codes for an entry that is not at the expected revision. The client translates them for updates only."""

log = structlog.get_logger()


@asynccontextmanager
async def unavailable(what: str) -> AsyncIterator[None]:
    """Turn what the client raises for an absent, slow or moving server into `BusUnavailable`."""
    try:
        yield
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
        raise BusUnavailable(f"{what}: {str(error) or type(error).__name__}") from error


@asynccontextmanager
async def conflict(what: str) -> AsyncIterator[None]:
    """Used around `unavailable`: turn the error for an outdated revision into `Conflict`."""
    try:
        yield
    except BusUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, nats.js.errors.KeyWrongLastSequenceError) or (
            # A key that expires meanwhile is an error of the client's own, without a code.
            isinstance(cause, nats.js.errors.APIError) and getattr(cause, "err_code", None) in WRONG_REVISION
        ):
            raise Conflict(what) from error
        raise


class Stop:
    """A `Handle` of something whose connection may have ended first."""

    def __init__(self, stop: Callable[[], Awaitable[Any]]) -> None:
        self._stop = stop

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._stop()
        except (nats.errors.Error, TimeoutError) as error:
            log.debug("handle_lost_with_connection", error=str(error))


async def subscribe_stored(
    js: JetStreamContext, stream: str, subject: str, policy: DeliverPolicy, *, name: str | None = None
) -> tuple[JetStreamContext.PushSubscription, int]:
    """Subscribe to a stream's stored and future messages. Returns the subscription and how many are stored now.

    `name` is the consumer's: without one, a user may not make it where a stream has durable consumers. The client
    cannot replace a named one after a gap.
    """
    config = ConsumerConfig(name=name, filter_subject=subject, deliver_policy=policy)
    subscription = await js.subscribe(subject, stream=stream, ordered_consumer=True, config=config)
    info = await subscription.consumer_info()
    # A delivered message may still be on its way. Both counts are of the same moment.
    return subscription, (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)


async def subscribe_newest(js: JetStreamContext, bucket: Bucket) -> tuple[JetStreamContext.PushSubscription, int]:
    """Subscribe to a bucket: the newest value of each key, or the mark of its deletion, then every later change."""
    return await subscribe_stored(js, f"KV_{bucket.name}", f"$KV.{bucket.name}.>", DeliverPolicy.LAST_PER_SUBJECT)


def change_of(bucket: Bucket, message: Msg) -> Changed:
    headers = message.headers or {}
    deleted = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
    key = message.subject.removeprefix(f"$KV.{bucket.name}.")
    return Changed(key, None if deleted else message.data, message.metadata.sequence.stream)


async def read_stream(js: JetStreamContext, stream: str, subject: str, wait: float) -> list[Msg]:
    """Return what the stream holds, oldest first. Raises the client's error if a message takes longer than `wait`."""
    subscription, stored = await subscribe_stored(js, stream, subject, DeliverPolicy.ALL, name=uuid4().hex)
    try:
        return [await subscription.next_msg(wait) for _ in range(stored)]
    finally:
        await subscription.unsubscribe()


async def read_bucket(js: JetStreamContext, bucket: Bucket, wait: float) -> list[Changed]:
    """Return the newest change of each key. Raises the client's error if one takes longer than `wait` seconds."""
    subscription, stored = await subscribe_newest(js, bucket)
    try:
        return [change_of(bucket, await subscription.next_msg(wait)) for _ in range(stored)]
    finally:
        await Stop(subscription.unsubscribe).stop()


class Watch:
    """A watch of one bucket. `restart` begins it anew."""

    def __init__(
        self,
        js: JetStreamContext,
        bucket: Bucket,
        on_event: Callable[[WatchEvent], None],
        rejections: Rejections,
        *,
        on_end: "Callable[[Watch, Exception | None], None]",
        age: Callable[[datetime], float],
        age_s: float,
    ) -> None:
        """`on_end` is called once: without an error if the watch was stopped, otherwise with the reason."""
        self.bucket = bucket
        self.current_at = asyncio.get_running_loop().time() - age_s
        """When every entry of the bucket was last known to be delivered, by the loop's clock."""
        self._js = js
        self._rejections = rejections
        self._on_event = on_event
        self._on_end = on_end
        self._stopping = False
        self._age = age
        self._task: asyncio.Task[None] | None = None

    def restart(self) -> None:
        if self._task:
            self._task.cancel()
        self._task = asyncio.create_task(self._run(), name=f"watch {self.bucket.name}")
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """Report an end that neither `stop` nor `restart` caused."""
        if task is not self._task or self._stopping:
            return
        error = None if task.cancelled() else task.exception()
        reason = error if isinstance(error, Exception) else RuntimeError("it returned")
        self._on_end(self, reason)

    async def _run(self) -> None:
        while True:
            try:
                async with unavailable(f"watch {self.bucket.name}"):
                    subscription, stored = await subscribe_newest(self._js, self.bucket)
                try:
                    if not await self._follow(subscription, stored):
                        return
                finally:
                    await Stop(subscription.unsubscribe).stop()
            except BusUnavailable as error:
                log.warning("watch_start_failed", bucket=self.bucket.name, error=str(error))
            await asyncio.sleep(RESTART_SECONDS)

    async def _follow(self, subscription: JetStreamContext.PushSubscription, stored: int) -> bool:
        """Pass on what arrives while the subscription lives. False: another task has taken over."""
        progress = _Progress(missing=stored)
        self._on_event(Restarted())
        if stored == 0:
            self._on_event(Synced())
        checking = asyncio.create_task(self._check(subscription, progress), name=f"check of watch {self.bucket.name}")
        try:
            async for message in subscription.messages:
                if asyncio.current_task() is not self._task:
                    return False  # the watch was restarted, and the cancellation of this task was lost
                try:
                    change = change_of(self.bucket, message)
                    change = replace(change, age_s=self._age(message.metadata.timestamp))
                except (nats.errors.Error, ValueError, LookupError) as error:
                    # Something other than the bucket's stream wrote to the watch.
                    self._rejections.record(self.bucket.name, error)
                    continue
                self._on_event(change)
                progress.last = message
                progress.missing -= 1
                if progress.missing == 0:
                    self.current_at = asyncio.get_running_loop().time()
                    self._on_event(Synced())
        finally:
            await cancel_and_wait([checking])
        return True

    async def _check(self, subscription: JetStreamContext.PushSubscription, progress: "_Progress") -> None:
        """Ask the server periodically whether it has entries that were not delivered.

        This confirms that a quiet bucket is current, and restarts a watch that the server has forgotten or that nothing
        reaches any more.
        """
        behind = 0
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            checked_at, last = asyncio.get_running_loop().time(), progress.last
            try:
                async with unavailable(f"check of watch {self.bucket.name}"):
                    info = await subscription.consumer_info()
            except BusUnavailable as error:
                if not isinstance(error.__cause__, nats.js.errors.NotFoundError):
                    continue  # the age grows meanwhile
                behind = BEHIND_CHECKS
            else:
                behind = 0 if progress.reached(info) else behind + 1 if progress.last is last else 1
            if behind == 0:
                self.current_at = checked_at
                if progress.missing > 0:  # the counted entries were deleted before their delivery
                    progress.missing = 0
                    self._on_event(Synced())
            elif behind >= BEHIND_CHECKS:
                log.warning(
                    "watch_restarted", bucket=self.bucket.name, reason="the server does not deliver the entries it has"
                )
                self.restart()
                return

    async def stop(self) -> None:
        self._stopping = True
        self._on_end(self, None)
        if self._task:
            await cancel_and_wait([self._task])


@dataclass
class _Progress:
    """How much of a bucket one subscription has received."""

    missing: int
    """Stored entries that have not arrived yet."""
    last: Msg | None = None

    def reached(self, info: ConsumerInfo) -> bool:
        """Whether everything that the server has to deliver has arrived."""
        delivered = info.delivered.consumer_seq if info.delivered else 0
        if info.num_pending or delivered == 0:
            return not info.num_pending
        if self.last is None or self.last.metadata.consumer != info.name:
            return False  # the client made a new consumer, whose first message is on its way
        return self.last.metadata.sequence.consumer >= delivered
