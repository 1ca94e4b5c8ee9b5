"""An engine's response on its way to the client: a stream event by event, or a whole one that is held until its end."""

from collections.abc import Callable
from typing import Protocol

from services.gateway.core import errors, sse
from services.gateway.core.engine_error import EngineError
from services.gateway.core.memory import Held
from services.gateway.core.stream import StreamReader, UnusableStream
from services.gateway.core.usage import Count
from services.gateway.core.whole_response import Verdict, judge
from services.gateway.metrics import Histogram

EVENT_STREAM = b"text/event-stream"
MAX_BYTES = 256 * 1024 * 1024
"""Of a whole response: beyond what any engine's limits allow."""


class ResponseOwner(Protocol):
    """It is called before the client has what the call is about."""

    def on_complete(self) -> None:
        """The engine said all that it had to say: it is counted, whatever happens then."""

    def on_error(self, error: EngineError) -> None:
        """The engine reported an error in its stream, the first one."""

    def on_unusable(self, reason: str) -> None:
        """What comes is no response."""

    def on_full(self) -> None:
        """There is no room for more of it."""

    def on_crash(self, fault: Exception) -> None:
        """A fault of ours, whatever it is."""


class StreamedResponse:
    """What `feed` gets is sent in the same iteration of the loop."""

    __slots__ = ("_gap", "_last_at", "_now", "_owner", "_reader", "_send_event", "complete", "first_at", "has_error")

    def __init__(
        self,
        send: Callable[[bytes], None],
        reader: StreamReader,
        owner: ResponseOwner,
        *,
        gap: Histogram,
        now: Callable[[], float],
    ) -> None:
        self._send_event = send
        self._reader = reader
        self._gap = gap
        self._now = now
        self._owner = owner
        self._last_at = 0.0
        self.has_error = False
        """The client has been sent an error of the engine's."""
        self.first_at: float | None = None
        """Unix seconds."""
        self.complete = False

    @property
    def count(self) -> Count:
        return self._reader.count

    def feed(self, data: bytes) -> None:
        try:
            now = self._now()
            if self.first_at is None:
                self.first_at = now
            else:
                self._gap.observe(now - self._last_at)
            self._last_at = now
            out = self._reader.feed(data)
            if self._reader.complete or self._reader.error is not None:
                self._send(out)
            elif out:
                self._send_event(out)
        except UnusableStream as error:
            self._owner.on_unusable(str(error))
        except Exception as fault:  # noqa: BLE001 - whatever it is, the client is told
            self._owner.on_crash(fault)

    def end(self) -> None:
        """The engine has closed: send what it left without an end, as some do."""
        try:
            self._send(self._reader.end())
        except UnusableStream as error:
            self._owner.on_unusable(str(error))

    def _send(self, out: bytes) -> None:
        if self._reader.error is not None and not self.has_error:
            self.has_error = True
            self._owner.on_error(self._reader.error)
        if self._reader.complete and not self.complete:
            self.complete = True
            self._owner.on_complete()
        if out:
            self._send_event(out)


class BufferedResponse:
    """Judged and counted before the client has any of it, and held until the client has read it."""

    __slots__ = ("_owner", "_verdict", "body", "fields", "first_at", "held")

    def __init__(self, fields: bytes, now: float, held: Held, owner: ResponseOwner) -> None:
        self.fields = fields
        """Header lines for the client."""
        self.held = held
        """Whoever ends the response releases it."""
        self._owner = owner
        self.first_at: float | None = now
        self.body = bytearray()
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """Of the body as far as it has come when this is asked for first."""
        if self._verdict is None:
            self._verdict = judge(self.body)
        return self._verdict

    @property
    def count(self) -> Count:
        return self.verdict.tokens

    def feed(self, data: bytes) -> None:
        if len(self.body) + len(data) > MAX_BYTES:
            self._owner.on_unusable("a response too large to be one")
        elif self.held.grow(len(data)):
            self.body += data
        else:
            self._owner.on_full()

    def as_event(self) -> bytes:
        """Inside a stream that has begun: an engine's error, on one line."""
        body = bytes(self.body)
        return sse.event_of(body) if sse.begins_json(body) else errors.upstream_unreachable().event()
