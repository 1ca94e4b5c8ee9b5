"""An engine's answer on its way to the client: a stream piece by piece, or a whole that is held until its end."""

from collections.abc import Callable

import msgspec

from services.gateway.core import errors, usage
from services.gateway.core.errors import ApiError
from services.gateway.core.memory import Held
from services.gateway.core.request import Asked
from services.gateway.core.stream import EventTooLarge, StreamReader
from services.gateway.core.usage import Count
from services.gateway.http.connection import ClientConnection
from services.gateway.http.request import Request
from services.gateway.metrics import Histogram

EVENT_STREAM = b"text/event-stream"
STREAM_FIELDS = (
    b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
)
MAX_BYTES = 256 * 1024 * 1024
"""Of a whole answer: beyond what any engine's limits allow."""


def stream_reader(asked: Asked, path: str) -> StreamReader:
    """Return what reads the stream that was asked for."""
    return StreamReader(
        wants_usage=asked.wants_usage,
        wants_running_usage=asked.wants_running_usage,
        ends_with_done=path != "/v1/responses",
    )


class StreamAnswer:
    """What `feed` is given goes on in the same turn of the loop."""

    __slots__ = (
        "_client",
        "_gap",
        "_last_at",
        "_now",
        "_on_complete",
        "_on_fault",
        "_reader",
        "_request",
        "complete",
        "first_at",
    )

    def __init__(
        self,
        client: ClientConnection,
        request: Request,
        reader: StreamReader,
        gap: Histogram,
        now: Callable[[], float],
        *,
        on_complete: Callable[[], None],
        on_fault: Callable[[str], None],
    ) -> None:
        self._client = client
        self._request = request
        self._reader = reader
        self._gap = gap
        self._now = now
        self._on_complete = on_complete
        """Called before the client gets the end: what it has whole is counted, whatever happens then."""
        self._on_fault = on_fault
        """What comes is no event stream, and why."""
        self._last_at = 0.0
        self.first_at: float | None = None
        """Unix seconds."""
        self.complete = False

    @property
    def count(self) -> Count:
        return self._reader.count

    def feed(self, data: bytes) -> None:
        now = self._now()
        if self.first_at is None:
            self.first_at = now
        else:
            self._gap.observe(now - self._last_at)
        self._last_at = now
        try:
            out = self._reader.feed(data)
        except EventTooLarge:
            self._on_fault("an event without an end")
            return
        if self._reader.complete:
            self._send(out)
        elif out:
            self._client.send(self._request, out)

    def end(self) -> None:
        """The engine has closed: what it left without an end, as some do."""
        self._send(self._reader.end())

    def _send(self, out: bytes) -> None:
        if self._reader.complete and not self.complete:
            self.complete = True
            self._on_complete()
        if out:
            self._client.send(self._request, out)


class WholeAnswer:
    """Counted before the client has any of it, and held until the client has read it."""

    __slots__ = ("_on_fault", "_on_full", "_parts", "_size", "content_type", "first_at", "held")

    def __init__(
        self,
        content_type: bytes,
        now: float,
        held: Held,
        on_fault: Callable[[str], None],
        on_full: Callable[[ApiError], None],
    ) -> None:
        self.content_type = content_type
        self.held = held
        """Whoever ends the answer gives it back."""
        self._on_fault = on_fault
        self._on_full = on_full
        """There is no room for more of it."""
        self.first_at: float | None = now
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def body(self) -> bytes:
        if len(self._parts) != 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]

    @property
    def count(self) -> Count:
        return usage.of_answer(self.body)

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_BYTES:
            self._on_fault("an answer too large to be one")
        elif self.held.grow(len(data)):
            self._parts.append(data)
        else:
            self._on_full(errors.too_many_bytes())

    def as_event(self) -> bytes:
        """Inside a stream that has begun: an engine's error, on one line."""
        try:
            return b"data: " + msgspec.json.encode(msgspec.json.decode(self.body)) + b"\n\n"
        except (msgspec.DecodeError, UnicodeDecodeError):
            return errors.upstream_unreachable().event()
