"""An engine's response on its way to the client: a stream, event by event, or a response buffered until its end."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from services.gateway.core import errors, sse
from services.gateway.core.buffer_memory import BufferedBytes
from services.gateway.core.engine_error import EngineError
from services.gateway.core.response_verdict import Verdict, judge
from services.gateway.core.sse import UnusableStream
from services.gateway.core.stream import StreamReader
from services.gateway.core.usage import TokenCount
from services.gateway.metrics import Histogram

EVENT_STREAM = b"text/event-stream"
MAX_BYTES = 256 * 1024 * 1024
"""Bytes of a buffered response: beyond what any engine's limits allow."""


class ResponseOwner(Protocol):
    """The owner of a response. Each call comes before the client gets what it is about."""

    def on_complete(self) -> None:
        """The stream is complete: its usage counts, whatever happens later."""

    def on_error(self, error: EngineError) -> None:
        """The engine reported its first error in the stream."""

    def on_unusable(self, reason: str) -> None:
        """The engine's bytes are not a valid response."""

    def on_full(self) -> None:
        """There is no memory left for the response."""

    def on_crash(self, fault: Exception) -> None:
        """An unexpected exception in the gateway."""


@dataclass(eq=False, slots=True)
class StreamedResponse:
    """A stream. What `feed` gets is sent within the same loop iteration."""

    send: Callable[[bytes], None]
    reader: StreamReader
    owner: ResponseOwner
    _: KW_ONLY
    gap_histogram: Histogram
    now: Callable[[], float]
    _last_at: float = 0.0
    has_error: bool = False
    """Whether the client has been sent an error of the engine."""
    first_at: float | None = None
    """Unix seconds."""
    complete: bool = False

    @property
    def count(self) -> TokenCount:
        return self.reader.count

    def feed(self, data: bytes) -> None:
        try:
            now = self.now()
            if self.first_at is None:
                self.first_at = now
            else:
                self.gap_histogram.observe(now - self._last_at)
            self._last_at = now
            out = self.reader.feed(data)
            if self.reader.complete or self.reader.error is not None:
                self._send(out)
            elif out:
                self.send(out)
        except UnusableStream as error:
            self.owner.on_unusable(str(error))
        except Exception as fault:  # noqa: BLE001 - any failure becomes the client's error
            self.owner.on_crash(fault)

    def end(self) -> None:
        """Send an unterminated last event after the engine has closed, as some engines leave one."""
        try:
            self._send(self.reader.end())
        except UnusableStream as error:
            self.owner.on_unusable(str(error))

    def _send(self, out: bytes) -> None:
        if self.reader.error is not None and not self.has_error:
            self.has_error = True
            self.owner.on_error(self.reader.error)
        if self.reader.complete and not self.complete:
            self.complete = True
            self.owner.on_complete()
        if out:
            self.send(out)


@dataclass(eq=False, slots=True)
class BufferedResponse:
    """A response that is judged and counted before the client gets it, and held until the client has read it."""

    fields: bytes
    """Header lines for the client."""
    first_at: float | None
    """Unix seconds."""
    buffered: BufferedBytes
    """The body's bytes; whoever ends the response releases them."""
    owner: ResponseOwner
    body: bytearray = field(default_factory=bytearray)
    _verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on the body so far, computed on first use."""
        if self._verdict is None:
            self._verdict = judge(self.body)
        return self._verdict

    @property
    def count(self) -> TokenCount:
        return self.verdict.tokens

    def feed(self, data: bytes) -> None:
        if len(self.body) + len(data) > MAX_BYTES:
            self.owner.on_unusable("the response is too large")
        elif self.buffered.grow(len(data)):
            self.body += data
        else:
            self.owner.on_full()

    def as_event(self) -> bytes:
        """Return the body as an event, for a stream that has begun: an engine's error on one line."""
        body = bytes(self.body)
        return sse.make_event(body) if sse.begins_json(body) else errors.upstream_unreachable().event()
