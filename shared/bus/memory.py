"""The bus inside one process, for tests of the services' logic. It passes the same contract tests as NATS."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from shared.bus.ports import (
    Changed,
    Delivery,
    Entry,
    Handle,
    Page,
    Received,
    Restarted,
    Stored,
    StreamSize,
    Synced,
    WatchEvent,
)
from shared.bus.rejections import Rejections
from shared.bus.subjects import matches
from shared.bus.topology import STREAMS, Bucket, Consumer, ObjectStore, Stream
from shared.errors import BusUnavailable, Conflict


@dataclass
class _Stored:
    sequence: int
    subject: str
    data: bytes
    at: float


@dataclass
class _StreamState:
    stream: Stream
    messages: list[_Stored] = field(default_factory=list)
    sequences: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    ids: set[str] = field(default_factory=set)


@dataclass
class _ConsumerState:
    next_sequence: int = 1
    pending: dict[int, _Stored] = field(default_factory=dict)
    redeliver: list[_Stored] = field(default_factory=list)


class _Delivery:
    def __init__(self, stored: _Stored, state: _ConsumerState) -> None:
        self.data, self.subject, self.sequence = stored.data, stored.subject, stored.sequence
        self._state = state

    async def ack(self) -> None:
        self._state.pending.pop(self.sequence, None)


class _Handle:
    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    async def stop(self) -> None:
        self._stop()


class MemoryBus:
    """A `Bus`. With `connected = False` every call fails as with an absent server."""

    def __init__(self) -> None:
        self.connected = True
        self.rejections = Rejections(time.monotonic)
        self.view_age = 0.0
        """What `view_ages` reports for every watched bucket, in seconds."""
        self.now: Callable[[], float] = time.time
        self._streams = {s.name: _StreamState(s) for s in STREAMS}
        self._consumers: dict[str, _ConsumerState] = {}
        self._buckets: dict[str, dict[str, Entry]] = {}
        self._revisions = itertools.count(1)
        self._watches: list[tuple[Bucket, Callable[[WatchEvent], None]]] = []
        self._subscribers: list[tuple[str, Callable[[Received], Awaitable[None]]]] = []
        self._responders: dict[str, Callable[[bytes], Awaitable[bytes]]] = {}
        self._objects: dict[tuple[str, str], bytes] = {}
        self._arrived = asyncio.Condition()
        self._watch_ended: asyncio.Future[Exception] | None = None

    @property
    def watch_ended(self) -> "asyncio.Future[Exception]":
        if self._watch_ended is None:
            self._watch_ended = asyncio.get_running_loop().create_future()
        return self._watch_ended

    async def wait_for_ended_watch(self) -> Exception:
        return await asyncio.shield(self.watch_ended)

    def view_ages(self) -> dict[str, float]:
        return {bucket.name: self.view_age for bucket, _ in self._watches}

    def restart(self) -> None:
        """Send watchers what they receive after a reconnect."""
        for bucket, on_event in self._watches:
            self._send_all(bucket, on_event)

    def redeliver(self, consumer: Consumer) -> None:
        """Redeliver all pending messages, as after their acknowledgement wait."""
        state = self._consumer(consumer)
        state.redeliver.extend(state.pending.values())
        state.pending.clear()

    async def measure_skew(self) -> float:
        self._check()
        return 0.0

    async def publish(self, subject: str, data: bytes, *, message_id: str | None = None) -> None:
        self._check()
        owner = next((s for s in self._streams.values() if any(matches(p, subject) for p in s.stream.subjects)), None)
        if owner is None:
            raise BusUnavailable(f"no stream owns {subject}")
        if message_id is None or message_id not in owner.ids:
            if message_id is not None:
                owner.ids.add(message_id)
            if owner.stream.last_per_subject:
                owner.messages = [m for m in owner.messages if m.subject != subject]
            owner.messages.append(_Stored(next(owner.sequences), subject, data, self.now()))
            async with self._arrived:
                self._arrived.notify_all()
        await self._push(subject, data)

    async def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> None:
        for subject, data, message_id in messages:
            await self.publish(subject, data, message_id=message_id)

    async def publish_volatile(self, subject: str, data: bytes) -> None:
        self._check()
        await self._push(subject, data)

    async def subscribe(self, subject: str, handler: Callable[[Received], Awaitable[None]]) -> Handle:
        entry = (subject, handler)
        self._subscribers.append(entry)
        return _Handle(lambda: self._subscribers.remove(entry))

    async def last(self, stream: Stream, subject: str) -> Stored | None:
        self._check()
        messages = reversed(self._streams[stream.name].messages)
        return next((Stored(m.data, self.now() - m.at) for m in messages if m.subject == subject), None)

    async def read(self, stream: Stream, subject: str | None = None) -> Sequence[Received]:
        self._check()
        subject = subject or stream.subjects[0]
        return [Received(m.subject, m.data) for m in self._streams[stream.name].messages if matches(subject, m.subject)]

    async def page(self, stream: Stream, *, after: int, since: float | None = None, most: int) -> Page:
        self._check()
        stored = self._streams[stream.name].messages
        matching = [m for m in stored if m.sequence > after and (after or since is None or m.at >= since)]
        end = stored[-1].sequence if stored else 0
        shown = matching[:most]
        return Page([Received(m.subject, m.data) for m in shown], shown[-1].sequence if shown else end, end)

    async def fetch(self, consumer: Consumer, *, batch: int, wait: float) -> Sequence[Delivery]:
        self._check()
        if matching := self._take(consumer, batch):
            return matching
        try:
            async with asyncio.timeout(wait), self._arrived:
                await self._arrived.wait()
        except TimeoutError:
            return []
        return self._take(consumer, batch)

    async def backlog(self, consumer: Consumer) -> int:
        self._check()
        state = self._consumer(consumer)
        unread = sum(m.sequence >= state.next_sequence for m in self._streams[consumer.stream].messages)
        return unread + len(state.pending) + len(state.redeliver)

    async def size(self, stream: Stream) -> StreamSize:
        self._check()
        return StreamSize(sum(len(m.subject) + len(m.data) for m in self._streams[stream.name].messages), None)

    async def get(self, bucket: Bucket, key: str) -> Entry | None:
        self._check()
        return self._bucket(bucket).get(key)

    async def put(self, bucket: Bucket, key: str, value: bytes) -> int:
        self._check()
        entry = self._bucket(bucket)[key] = Entry(value, next(self._revisions))
        self._announce(bucket, Changed(key, value, entry.revision))
        return entry.revision

    async def create(self, bucket: Bucket, key: str, value: bytes) -> int:
        self._check()
        if key in self._bucket(bucket):
            raise Conflict(f"{bucket.name}/{key} exists")
        return await self.put(bucket, key, value)

    async def update(self, bucket: Bucket, key: str, value: bytes, *, revision: int) -> int:
        self._check()
        if getattr(self._bucket(bucket).get(key), "revision", None) != revision:
            raise Conflict(f"{bucket.name}/{key} is not at revision {revision}")
        return await self.put(bucket, key, value)

    async def delete(self, bucket: Bucket, key: str, *, revision: int | None = None) -> None:
        self._check()
        if revision is not None and getattr(self._bucket(bucket).get(key), "revision", None) != revision:
            raise Conflict(f"{bucket.name}/{key} is not at revision {revision}")
        if self._bucket(bucket).pop(key, None):
            self._announce(bucket, Changed(key, None, next(self._revisions)))

    async def entries(self, bucket: Bucket) -> dict[str, Entry]:
        self._check()
        return dict(self._bucket(bucket))

    async def watch(self, bucket: Bucket, on_event: Callable[[WatchEvent], None], *, age_s: float = 0.0) -> Handle:
        del age_s  # `view_age` says it
        entry = (bucket, on_event)
        self._watches.append(entry)
        if self.connected:
            self._send_all(bucket, on_event)
        return _Handle(lambda: None if entry not in self._watches else self._watches.remove(entry))

    async def put_object(self, store: ObjectStore, name: str, data: bytes | BinaryIO) -> None:
        self._check()
        self._objects[store.name, name] = data if isinstance(data, bytes) else data.read()

    async def get_object(self, store: ObjectStore, name: str) -> bytes | None:
        self._check()
        return self._objects.get((store.name, name))

    async def copy_object(self, store: ObjectStore, name: str, into: BinaryIO) -> bool:
        data = await self.get_object(store, name)
        if data is not None:
            into.write(data)
        return data is not None

    async def respond(self, service: str, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Handle:
        async def answer(data: bytes) -> bytes:
            return await self.rejections.answer_or_reject(service, subject, handler(data))

        self._responders[subject] = answer
        return _Handle(lambda: self._responders.__delitem__(subject))

    async def request(self, subject: str, data: bytes, *, timeout: float) -> bytes:
        self._check()
        if subject not in self._responders:
            raise BusUnavailable(f"nobody answers {subject}")
        try:
            async with asyncio.timeout(timeout):
                return await self._responders[subject](data)
        except TimeoutError:
            raise BusUnavailable(f"no answer on {subject} within {timeout} s") from None

    def _check(self) -> None:
        if not self.connected:
            raise BusUnavailable("not connected")

    def _bucket(self, bucket: Bucket) -> dict[str, Entry]:
        return self._buckets.setdefault(bucket.name, {})

    def _consumer(self, consumer: Consumer) -> _ConsumerState:
        return self._consumers.setdefault(consumer.durable, _ConsumerState())

    def _take(self, consumer: Consumer, batch: int) -> list[Delivery]:
        state = self._consumer(consumer)
        taken, state.redeliver = state.redeliver[:batch], state.redeliver[batch:]
        for stored in self._streams[consumer.stream].messages:
            if len(taken) == batch:
                break
            if stored.sequence >= state.next_sequence:
                state.next_sequence = stored.sequence + 1
                taken.append(stored)
        state.pending.update((stored.sequence, stored) for stored in taken)
        return [_Delivery(stored, state) for stored in taken]

    async def _push(self, subject: str, data: bytes) -> None:
        for pattern, handler in list(self._subscribers):
            if matches(pattern, subject):
                await self.rejections.handle_or_reject(pattern, subject, handler(Received(subject, data)))

    def _announce(self, bucket: Bucket, change: Changed) -> None:
        for watched, on_event in list(self._watches):
            if watched.name == bucket.name:
                self._event(on_event, change)

    def _send_all(self, bucket: Bucket, on_event: Callable[[WatchEvent], None]) -> None:
        self._event(on_event, Restarted())
        for key, entry in self._bucket(bucket).items():
            self._event(on_event, Changed(key, entry.value, entry.revision))
        self._event(on_event, Synced())

    def _event(self, on_event: Callable[[WatchEvent], None], event: WatchEvent) -> None:
        """As on NATS, an error of the watcher ends its watch and does not reach the writer."""
        try:
            on_event(event)
        except Exception as error:  # noqa: BLE001 - the watch ends, whatever it is
            self._watches = [(bucket, watcher) for bucket, watcher in self._watches if watcher is not on_event]
            if not self.watch_ended.done():
                self.watch_ended.set_result(error)
