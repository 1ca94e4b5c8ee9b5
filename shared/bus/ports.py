"""What a service can do with the bus. Messages are bytes; `shared.messages.codec` encodes and decodes them.

Every call that needs the server has a timeout and then raises `BusUnavailable`; none waits for ever.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from shared.bus.topology import Bucket, Consumer, ObjectStore, Stream


@dataclass(frozen=True)
class Entry:
    """A bucket's value, and the revision to pass when it is replaced."""

    value: bytes
    revision: int


@dataclass(frozen=True)
class Changed:
    """A key has this value now; None if it was deleted."""

    key: str
    value: bytes | None
    revision: int
    age_s: float = field(default=0.0, compare=False)
    """How long ago it was stored, by the bus's clock."""


@dataclass(frozen=True)
class Stored:
    """A message of a stream."""

    data: bytes
    age_s: float
    """How long ago it was stored, by the bus's clock."""


@dataclass(frozen=True)
class StreamSize:
    """How full a stream is, on each server that has a copy."""

    used_bytes: int
    max_bytes: int | None
    """None: only the server's store bounds it."""


@dataclass(frozen=True)
class Restarted:
    """The watch begins or restarts: the events until `Synced` are the whole bucket."""


@dataclass(frozen=True)
class Synced:
    """The whole bucket has been delivered: a key without an event since `Restarted` is gone."""


WatchEvent = Changed | Restarted | Synced


@dataclass(frozen=True)
class Received:
    """A message that was pushed to a subscriber or a responder."""

    subject: str
    data: bytes


@dataclass(frozen=True)
class Page:
    """Some messages of a stream, oldest first. Reading them acknowledges nothing."""

    messages: Sequence[Received]
    last: int
    """Sequence of the last message of this page; the next page begins after it."""
    end: int
    """Sequence of the newest message of the stream. When `last` has reached it, nothing is left."""


class Delivery(Protocol):
    """A stream's message as a consumer receives it. It is redelivered unless acknowledged."""

    @property
    def data(self) -> bytes: ...

    @property
    def subject(self) -> str: ...

    @property
    def sequence(self) -> int:
        """Position in the stream. Not an identity: a re-created stream starts again at 1."""
        ...

    async def ack(self) -> None: ...


class Handle(Protocol):
    """A subscription, responder or watch, which runs until it is stopped."""

    async def stop(self) -> None: ...


class Rejections(Protocol):
    """Counts and logs messages that cannot be processed: `shared.bus.rejections`."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Rejected messages by source, since the process began."""
        ...

    def record(self, source: str, error: Exception, *, traceback: bool = False, **place: object) -> bool:
        """Count and log one message of a source. `place` identifies it and never holds its content."""
        ...


class Bus(Protocol):
    """One connection to the bus."""

    @property
    def connected(self) -> bool: ...

    @property
    def rejections(self) -> Rejections:
        """Where readers record the messages that they cannot process."""
        ...

    async def wait_for_ended_watch(self) -> Exception:
        """Wait until a watch ends that was not stopped, and return the reason. The process then has to end."""
        ...

    def view_ages(self) -> Mapping[str, float]:
        """Return by watched bucket how many seconds ago every entry was last known to be delivered."""
        ...

    async def measure_skew(self) -> float:
        """Return how many seconds this host's clock is ahead of the bus's, to half a round trip.

        Later ages from the bus are corrected by it.
        """
        ...

    async def publish(self, subject: str, data: bytes, *, message_id: str | None = None) -> None:
        """Store a message in the stream that owns `subject`; return once it is stored. A repeated id is a no-op."""
        ...

    async def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> None:
        """Store messages in order, each a subject, its data and its id; return once the server has the last one.

        There must be at least one, and together no more than the client buffers, some 256 KiB. Only the last one is
        acknowledged: a server that drops an earlier one does not report it. So the caller must learn elsewhere what
        arrived, and repeat the rest.
        """
        ...

    async def publish_volatile(self, subject: str, data: bytes) -> None:
        """Send to the current subscribers. Nothing is stored, and delivery is not guaranteed."""
        ...

    async def subscribe(self, subject: str, handler: Callable[[Received], Awaitable[None]]) -> Handle:
        """Call `handler` for each message from now on. It survives reconnects, but messages in the gap are lost.

        A message that makes the handler raise is recorded in `rejections`, and the next one follows.
        """
        ...

    async def last(self, stream: Stream, subject: str) -> Stored | None:
        """Return the newest stored message of exactly this subject."""
        ...

    async def read(self, stream: Stream, subject: str | None = None) -> Sequence[Received]:
        """Return everything that the stream holds under `subject` (None: under its own), oldest first."""
        ...

    async def page(self, stream: Stream, *, after: int, since: float | None = None, most: int) -> Page:
        """Return up to `most` messages after the sequence `after`, independently of all consumers.

        With `after` 0, `since` (Unix seconds) skips the messages stored before it.
        """
        ...

    async def fetch(self, consumer: Consumer, *, batch: int, wait: float) -> Sequence[Delivery]:
        """Return up to `batch` messages. It waits up to `wait` seconds for the first, then takes what is there."""
        ...

    async def backlog(self, consumer: Consumer) -> int:
        """Return how many messages the consumer has not acknowledged, delivered or not."""
        ...

    async def size(self, stream: Stream) -> StreamSize: ...

    async def get(self, bucket: Bucket, key: str) -> Entry | None: ...

    async def put(self, bucket: Bucket, key: str, value: bytes) -> int:
        """Write the value regardless of the current one; return the new revision."""
        ...

    async def create(self, bucket: Bucket, key: str, value: bytes) -> int:
        """Write the first value of a key. Raises `Conflict` if it has one."""
        ...

    async def update(self, bucket: Bucket, key: str, value: bytes, *, revision: int) -> int:
        """Replace exactly that revision. Raises `Conflict` if it is not the current one."""
        ...

    async def delete(self, bucket: Bucket, key: str, *, revision: int | None = None) -> None:
        """Delete the entry, if it is there; with a `revision`, raise `Conflict` if it is not at that one."""
        ...

    async def entries(self, bucket: Bucket) -> dict[str, Entry]:
        """Return the whole bucket as it is now."""
        ...

    async def watch(self, bucket: Bucket, on_event: Callable[[WatchEvent], None], *, age_s: float = 0.0) -> Handle:
        """Deliver the whole bucket, then each change. The watch restarts by itself after a reconnect.

        `on_event` must not raise: an exception ends the watch. `age_s` is how old the caller's copy of the bucket is,
        for `view_ages`.
        """
        ...

    async def put_object(self, store: ObjectStore, name: str, data: bytes | BinaryIO) -> None:
        """Store an object. A file is read piece by piece and never held in memory."""
        ...

    async def get_object(self, store: ObjectStore, name: str) -> bytes | None: ...

    async def copy_object(self, store: ObjectStore, name: str, into: BinaryIO) -> bool:
        """Write the object into a file, piece by piece. False if there is no such object."""
        ...

    async def respond(self, service: str, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Handle:
        """Answer requests on `subject` as one of the replicas of `service`.

        If the handler raises, the answer is an `ErrorReply` that names the fault in this service's log.
        """
        ...

    async def request(self, subject: str, data: bytes, *, timeout: float) -> bytes:
        """Send a request and return the answer. Raises `BusUnavailable` if none arrives in time."""
        ...
