"""What a service may do with the bus. Bytes go in and out: `shared.messages.codec` gives them meaning.

Every call that needs the server raises `BusUnavailable` after `timeout` seconds of its own; none waits for ever.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from shared.bus.topology import Bucket, Consumer, ObjectStore, Stream


@dataclass(frozen=True)
class Entry:
    """A bucket's value and the revision to name when it is replaced."""

    value: bytes
    revision: int


@dataclass(frozen=True)
class Changed:
    """A key has this value now; `value` None: it is gone."""

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
class Restarted:
    """The watch begins (again): what follows until `Synced` is the whole bucket."""


@dataclass(frozen=True)
class Synced:
    """The whole bucket has been told; a key not told since `Restarted` is gone."""


WatchEvent = Changed | Restarted | Synced


@dataclass(frozen=True)
class Received:
    """A message that was pushed to a subscriber or a responder."""

    subject: str
    data: bytes


@dataclass(frozen=True)
class Page:
    """Some of what a stream holds, oldest first; nothing is acknowledged by reading it."""

    messages: Sequence[Received]
    last: int
    """Sequence of the newest message up to here: the next page is the one after it."""
    end: int
    """Sequence of the newest message of the stream; nothing is left where `last` has reached it."""


class Delivery(Protocol):
    """A stream's message in the hands of a consumer: delivered again unless acknowledged."""

    @property
    def data(self) -> bytes: ...

    @property
    def subject(self) -> str: ...

    @property
    def sequence(self) -> int:
        """Place in the stream: evidence, never an identity (a re-created stream starts again at 1)."""
        ...

    async def ack(self) -> None: ...


class Handle(Protocol):
    """Something that runs until it is stopped."""

    async def stop(self) -> None: ...


class Rejections(Protocol):
    """Where what arrives and cannot be taken is counted and logged: `shared.bus.rejections`."""

    @property
    def counts(self) -> Mapping[str, int]:
        """By source, since the process began."""
        ...

    def record(self, source: str, error: Exception, *, traceback: bool = False, **place: object) -> bool:
        """Count and log one message of a source. `place` tells it from others; it is never its content."""
        ...


class Bus(Protocol):
    """One connection to the bus."""

    @property
    def connected(self) -> bool: ...

    @property
    def rejections(self) -> Rejections:
        """Where its readers reject what they cannot take."""
        ...

    async def wait_for_ended_watch(self) -> Exception:
        """Wait until a watch has ended that nobody stopped; returns the reason. Its process has to end."""
        ...

    def view_ages(self) -> Mapping[str, float]:
        """By watched bucket: seconds since it was last known that everything in it has been told."""
        ...

    async def measure_skew(self) -> float:
        """Return how many seconds this host's clock is ahead of the bus's, to half a round trip.

        What the bus says of ages from then on is corrected by it.
        """
        ...

    async def publish(self, subject: str, data: bytes, *, message_id: str | None = None) -> None:
        """Store in the stream that owns `subject`; returns once the server has it. Same id again: a no-op."""
        ...

    async def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> None:
        """Store messages, each a subject, its data and its id, in order; returns once the server has the last one.

        At least one, and not more than the client may buffer: some 256 KiB. Only the last is asked for: a server that
        drops one before it does not say so. So this is for those who learn elsewhere what arrived, and repeat the rest.
        """
        ...

    async def publish_volatile(self, subject: str, data: bytes) -> None:
        """Tell whoever listens now; nothing is stored and nothing is promised."""
        ...

    async def subscribe(self, subject: str, handler: Callable[[Received], Awaitable[None]]) -> Handle:
        """Call `handler` for each message from now on; survives reconnects, sees nothing of the gap.

        A message that makes the handler raise is rejected in `rejections`, and the next one comes.
        """
        ...

    async def last(self, stream: Stream, subject: str) -> Stored | None:
        """The newest stored message of exactly this subject."""
        ...

    async def read(self, stream: Stream, subject: str = ">") -> Sequence[Received]:
        """Everything that the stream holds under `subject`, oldest first."""
        ...

    async def page(self, stream: Stream, *, after: int, since: float | None = None, most: int) -> Page:
        """Up to `most` messages behind the sequence `after`, beside every consumer.

        With `after` 0, `since` (Unix seconds) leaves out what the stream had stored before.
        """
        ...

    async def fetch(self, consumer: Consumer, *, batch: int, wait: float) -> Sequence[Delivery]:
        """Up to `batch` messages; waits at most `wait` seconds for the first, then takes what is there."""
        ...

    async def backlog(self, consumer: Consumer) -> int:
        """Messages that the consumer has not acknowledged yet, delivered or not."""
        ...

    async def get(self, bucket: Bucket, key: str) -> Entry | None: ...

    async def put(self, bucket: Bucket, key: str, value: bytes) -> int:
        """Write whatever was there; returns the new revision."""
        ...

    async def create(self, bucket: Bucket, key: str, value: bytes) -> int:
        """Write where nothing is; `Conflict` otherwise."""
        ...

    async def update(self, bucket: Bucket, key: str, value: bytes, *, revision: int) -> int:
        """Replace exactly that revision; `Conflict` otherwise."""
        ...

    async def delete(self, bucket: Bucket, key: str) -> None: ...

    async def entries(self, bucket: Bucket) -> dict[str, Entry]:
        """The whole bucket as it is now."""
        ...

    async def watch(self, bucket: Bucket, on_event: Callable[[WatchEvent], None]) -> Handle:
        """Tell the whole bucket, then each change. Begins again by itself after a reconnect.

        `on_event` decides about each entry by itself and raises nothing: what it raises ends the watch.
        """
        ...

    async def put_object(self, store: ObjectStore, name: str, data: bytes | BinaryIO) -> None:
        """A file is read piece by piece, never held whole."""
        ...

    async def get_object(self, store: ObjectStore, name: str) -> bytes | None: ...

    async def copy_object(self, store: ObjectStore, name: str, into: BinaryIO) -> bool:
        """Write the object into a file, piece by piece; False where there is none."""
        ...

    async def respond(self, service: str, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Handle:
        """Answer requests on `subject` as one of the replicas of `service`.

        Where the handler raises, the answer is a `ErrorReply` that names the fault in this service's log.
        """
        ...

    async def request(self, subject: str, data: bytes, *, timeout: float) -> bytes:
        """Ask; `BusUnavailable` when nobody answers in time."""
        ...
