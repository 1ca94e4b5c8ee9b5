"""The bus on NATS with JetStream, shaped by three traits of nats-py and the server.

- After a reconnect, nats-py's own watches stay silent for up to 19 s, so every watch is restarted at once.
- A publish while disconnected would be buffered and reported as a timeout later, so it is rejected at once.
- Reads of buckets go to the leader (`direct` is off), because leases depend on them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import BinaryIO

import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.kv import KeyValue
from nats.micro import add_service
from nats.micro.request import Request

from shared.bus.access import BusAccess
from shared.bus.jetstream_client import ConnectionReport, TolerantClient, connect_client, prepare
from shared.bus.jetstream_clock import ServerClock
from shared.bus.jetstream_objects import get, put
from shared.bus.jetstream_page import read_page, read_size
from shared.bus.jetstream_pull import Pull, StreamDelivery
from shared.bus.jetstream_watch import Stop, Watch, conflict, read_bucket, read_stream, unavailable
from shared.bus.ports import Delivery, Entry, Handle, Page, Received, Stored, StreamSize, WatchEvent
from shared.bus.rejections import Rejections
from shared.bus.topology import Bucket, Consumer, ObjectStore, Stream
from shared.errors import BusUnavailable
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

CALL_SECONDS = 5.0
"""For one call to the server. Electing a cluster's leader takes up to 7 s, and callers retry."""


class JetStreamBus:
    """A `Bus` over one NATS connection. Made by `connect`."""

    def __init__(self) -> None:
        self.rejections = Rejections(time.monotonic)
        self.watch_ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.client = TolerantClient(self.rejections)
        self.js: JetStreamContext = self.client.jetstream(timeout=CALL_SECONDS)
        self._kvs: dict[str, KeyValue] = {}
        self._pulls: dict[str, Pull] = {}
        self._watches: list[Watch] = []
        self._clock = ServerClock(self.client)
        self._is_open = False

    @property
    def connected(self) -> bool:
        return self._is_open and self.client.is_connected

    async def open(self, access: BusAccess, name: str, report: ConnectionReport) -> None:
        """Connect for the first time, however long that takes."""
        await connect_client(self.client, access, name=name, report=report, on_reconnect=self.on_reconnect)
        self._is_open = True
        if self._watches:  # they were asked for before: ages of their entries depend on the clock
            with suppress(BusUnavailable):
                await self.measure_skew()
            await self.on_reconnect()

    def on_opened(self, opening: asyncio.Task[None]) -> None:
        if not opening.cancelled() and isinstance(error := opening.exception(), Exception):
            self._fail(error)

    async def on_reconnect(self) -> None:
        log.info("bus_reconnected")
        for watch in self._watches:
            watch.restart()

    async def measure_skew(self) -> float:
        self._check()
        return await self._clock.measure(CALL_SECONDS)

    async def publish(self, subject: str, data: bytes, *, message_id: str | None = None) -> None:
        self._check()
        headers = {"Nats-Msg-Id": message_id} if message_id else None
        async with unavailable(f"publish {subject}"):
            await self.js.publish(subject, data, timeout=CALL_SECONDS, headers=headers)

    async def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> None:
        self._check()
        connection = self.client.stats["reconnects"]
        *earlier, (subject, data, message_id) = messages
        async with unavailable(f"publish {len(messages)} to {subject}"):
            # None of these blocks: the client joins them in one write, and the server answers the last one after it.
            for to, content, its_id in earlier:
                await self.client.publish(to, content, headers={"Nats-Msg-Id": its_id})
            await self.js.publish(subject, data, timeout=CALL_SECONDS, headers={"Nats-Msg-Id": message_id})
        if self.client.stats["reconnects"] != connection:
            raise BusUnavailable("the connection was lost between the first message and the answer to the last")

    async def publish_volatile(self, subject: str, data: bytes) -> None:
        self._check()
        async with unavailable(f"publish {subject}"):
            await self.client.publish(subject, data)

    async def subscribe(self, subject: str, handler: Callable[[Received], Awaitable[None]]) -> Handle:
        self._check()

        async def on_message(msg: Msg) -> None:
            if self.rejections.is_published_to(subject, msg.subject):
                await self.rejections.handle_or_reject(subject, msg.subject, handler(Received(msg.subject, msg.data)))

        async with unavailable(f"subscribe {subject}"):
            subscription = await self.client.subscribe(subject, cb=on_message)
            try:
                await self.client.flush(int(CALL_SECONDS))  # the server knows it: no later message is missed
            except BaseException:
                await Stop(subscription.unsubscribe).stop()
                raise
        return Stop(subscription.unsubscribe)

    async def last(self, stream: Stream, subject: str) -> Stored | None:
        self._check()
        try:
            async with unavailable(f"last {subject}"):
                message = await self.js.get_last_msg(stream.name, subject)
                return Stored(message.data or b"", self._clock.age(message.time))
        except BusUnavailable as error:
            if isinstance(error.__cause__, nats.js.errors.NotFoundError):
                return None
            raise

    async def read(self, stream: Stream, subject: str | None = None) -> Sequence[Received]:
        self._check()
        async with unavailable(f"read {stream.name}"):
            messages = await read_stream(self.js, stream.name, subject or stream.subjects[0], CALL_SECONDS)
        return [Received(m.subject, m.data) for m in messages]

    async def page(self, stream: Stream, *, after: int, since: float | None = None, most: int) -> Page:
        self._check()
        async with unavailable(f"read {stream.name}"):
            return await read_page(self.client, self.js, stream, after=after, since=since, most=most, wait=CALL_SECONDS)

    async def fetch(self, consumer: Consumer, *, batch: int, wait: float) -> Sequence[Delivery]:
        self._check()
        async with unavailable(f"fetch {consumer.durable}"):
            pull = self._pulls.get(consumer.durable)
            if pull is None:
                pull = Pull(self.client, consumer.stream, consumer.durable)
                await pull.start()
                self._pulls[consumer.durable] = pull
            return [StreamDelivery(msg) for msg in await pull.fetch(batch, wait)]

    async def backlog(self, consumer: Consumer) -> int:
        self._check()
        async with unavailable(f"backlog {consumer.durable}"):
            info = await self.js.consumer_info(consumer.stream, consumer.durable)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def size(self, stream: Stream) -> StreamSize:
        self._check()
        return await read_size(self.js, stream)

    async def get(self, bucket: Bucket, key: str) -> Entry | None:
        self._check()
        try:
            async with unavailable(f"get {bucket.name}/{key}"):
                entry = await (await self.kv(bucket)).get(key)
        except BusUnavailable as error:
            if isinstance(error.__cause__, nats.js.errors.KeyNotFoundError):
                return None
            raise
        return Entry(entry.value or b"", entry.revision or 0)

    async def put(self, bucket: Bucket, key: str, value: bytes) -> int:
        self._check()
        async with unavailable(f"put {bucket.name}/{key}"):
            return await (await self.kv(bucket)).put(key, value)

    async def create(self, bucket: Bucket, key: str, value: bytes) -> int:
        self._check()
        async with conflict(f"{bucket.name}/{key} exists"), unavailable(f"create {bucket.name}/{key}"):
            return await (await self.kv(bucket)).create(key, value)

    async def update(self, bucket: Bucket, key: str, value: bytes, *, revision: int) -> int:
        self._check()
        async with conflict(f"{bucket.name}/{key} changed"), unavailable(f"update {bucket.name}/{key}"):
            return await (await self.kv(bucket)).update(key, value, last=revision)

    async def delete(self, bucket: Bucket, key: str, *, revision: int | None = None) -> None:
        self._check()
        async with conflict(f"{bucket.name}/{key} changed"), unavailable(f"delete {bucket.name}/{key}"):
            await (await self.kv(bucket)).delete(key, last=revision)

    async def entries(self, bucket: Bucket) -> dict[str, Entry]:
        self._check()
        async with unavailable(f"read {bucket.name}"):
            changes = await read_bucket(self.js, bucket, CALL_SECONDS)
        return {one.key: Entry(one.value, one.revision) for one in changes if one.value is not None}

    async def watch(self, bucket: Bucket, on_event: Callable[[WatchEvent], None], *, age_s: float = 0.0) -> Handle:
        watch = Watch(
            self.js, bucket, on_event, self.rejections, on_end=self._on_watch_end, age=self._clock.age, age_s=age_s
        )
        self._watches.append(watch)
        if self._is_open:  # otherwise `open` starts it
            watch.restart()
        return watch

    async def wait_for_ended_watch(self) -> Exception:
        return await asyncio.shield(self.watch_ended)

    def view_ages(self) -> dict[str, float]:
        now = asyncio.get_running_loop().time()
        ages: dict[str, float] = {}
        for watch in self._watches:
            ages[watch.bucket.name] = max(ages.get(watch.bucket.name, 0.0), now - watch.current_at)
        return ages

    def _on_watch_end(self, watch: Watch, error: Exception | None) -> None:
        if watch in self._watches:
            self._watches.remove(watch)
        if error is not None:
            log.critical("watch_ended", bucket=watch.bucket.name, exc_info=error)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.watch_ended.done():
            self.watch_ended.set_result(error)

    async def put_object(self, store: ObjectStore, name: str, data: bytes | BinaryIO) -> None:
        self._check()
        await put(self.js, store, name, data)

    async def get_object(self, store: ObjectStore, name: str) -> bytes | None:
        self._check()
        result = await get(self.js, store, name)
        return None if result is None else result.data or b""

    async def copy_object(self, store: ObjectStore, name: str, into: BinaryIO) -> bool:
        self._check()
        return await get(self.js, store, name, into) is not None

    async def respond(self, service: str, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Handle:
        async def on_request(request: Request) -> None:
            if self.rejections.is_published_to(subject, request.subject):
                await request.respond(await self.rejections.answer_or_reject(service, subject, handler(request.data)))

        async with unavailable(f"respond {subject}"):
            micro = await add_service(self.client, name=service, version="1.0.0")
            await micro.add_endpoint(name=subject.replace(".", "_"), subject=subject, handler=on_request)
            await self.client.flush(int(CALL_SECONDS))  # the server knows the endpoint: every later request is answered
        return Stop(micro.stop)

    async def request(self, subject: str, data: bytes, *, timeout: float) -> bytes:
        self._check()
        async with unavailable(f"request {subject}"):
            return (await self.client.request(subject, data, timeout=timeout)).data

    async def kv(self, bucket: Bucket) -> KeyValue:
        kv = self._kvs.get(bucket.name)
        if kv is None:
            kv = self._kvs[bucket.name] = await self.js.key_value(bucket.name)
        return kv

    def _check(self) -> None:
        if not self.connected:
            raise BusUnavailable("the bus is not connected")


@asynccontextmanager
async def connect(
    where: BusAccess | str, *, name: str, wait: float | None, is_required: bool = True
) -> AsyncIterator[JetStreamBus]:
    """A connected bus, which reconnects for ever. `where` may be a URL with a user and a password.

    Raises `BusUnavailable` if the first connection takes longer than `wait` seconds (None: it may take for ever), and
    `Misconfigured` if this is no URL of a NATS server or the user's key cannot be read. If the bus `is_required` not,
    it is yielded after `wait` seconds as it is, and goes on connecting.
    """
    access = BusAccess.of(where) if isinstance(where, str) else where
    prepare(access.urls)
    access.options()
    bus, report = JetStreamBus(), ConnectionReport()
    opening = asyncio.create_task(bus.open(access, name, report), name="connect to the bus")
    try:
        await asyncio.wait([opening], timeout=wait)
        if opening.done():
            opening.result()
        elif is_required:
            raise report.failure(f"no bus at {access.shown()} within {wait} s: {report.last_error or 'no answer'}")
        opening.add_done_callback(bus.on_opened)
        yield bus
    finally:
        report.closing = True
        await cancel_and_wait([opening])
        for watch in list(bus._watches):  # noqa: SLF001 - the connection is this module's own
            await watch.stop()
        await bus.client.disconnect()
