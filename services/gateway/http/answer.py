"""An engine's answer on its way to the client: a stream piece by piece, or a whole that is held until its end."""

from collections.abc import Callable
from typing import Protocol

from services.gateway.core import errors, sse
from services.gateway.core.engine_error import EngineError
from services.gateway.core.memory import Held
from services.gateway.core.stream import StreamReader, UnusableStream
from services.gateway.core.usage import Count
from services.gateway.core.whole_response import Verdict, judge
from services.gateway.http.connection import ClientConnection
from services.gateway.http.request import Request
from services.gateway.metrics import Histogram

EVENT_STREAM = b"text/event-stream"
MAX_BYTES = 256 * 1024 * 1024
"""Of a whole answer: beyond what any engine's limits allow."""


class AnswerOwner(Protocol):
    """Who is told of an answer, before the client has what it is about."""

    def on_complete(self) -> None:
        """The engine said all that it had to say: it is counted, whatever happens then."""

    def on_error(self, error: EngineError) -> None:
        """The engine told an error in its stream, the first one."""

    def on_unusable(self, reason: str) -> None:
        """What comes is no answer."""

    def on_full(self) -> None:
        """There is no room for more of it."""

    def on_crash(self, fault: Exception) -> None:
        """A fault of ours, whatever it is."""


class StreamAnswer:
    """What `feed` is given goes on in the same turn of the loop."""

    __slots__ = (
        "_client",
        "_gap",
        "_last_at",
        "_now",
        "_owner",
        "_reader",
        "_request",
        "_told_error",
        "complete",
        "first_at",
    )

    def __init__(
        self,
        client: ClientConnection,
        request: Request,
        reader: StreamReader,
        owner: AnswerOwner,
        *,
        gap: Histogram,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._request = request
        self._reader = reader
        self._gap = gap
        self._now = now
        self._owner = owner
        self._last_at = 0.0
        self._told_error = False
        self.first_at: float | None = None
        """Unix seconds."""
        self.complete = False

    @property
    def count(self) -> Count:
        return self._reader.count

    @property
    def told_error(self) -> bool:
        """Whether the client has been told an error by the engine."""
        return self._told_error

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
                self._client.send(self._request, out)
        except UnusableStream as error:
            self._owner.on_unusable(str(error))
        except Exception as fault:  # noqa: BLE001 - whatever it is, the client is to hear of it
            self._owner.on_crash(fault)

    def end(self) -> None:
        """The engine has closed: what it left without an end, as some do."""
        try:
            self._send(self._reader.end())
        except UnusableStream as error:
            self._owner.on_unusable(str(error))

    def _send(self, out: bytes) -> None:
        if self._reader.error is not None and not self._told_error:
            self._told_error = True
            self._owner.on_error(self._reader.error)
        if self._reader.complete and not self.complete:
            self.complete = True
            self._owner.on_complete()
        if out:
            self._client.send(self._request, out)


class WholeAnswer:
    """Judged and counted before the client has any of it, and held until the client has read it."""

    __slots__ = ("_owner", "_verdict", "body", "fields", "first_at", "held")

    def __init__(self, fields: bytes, now: float, held: Held, owner: AnswerOwner) -> None:
        self.fields = fields
        """Header lines for the client."""
        self.held = held
        """Whoever ends the answer gives it back."""
        self._owner = owner
        self.first_at: float | None = now
        self.body = bytearray()
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """Of the body as far as it has come, from the first time on that it is asked for."""
        if self._verdict is None:
            self._verdict = judge(self.body)
        return self._verdict

    @property
    def count(self) -> Count:
        return self.verdict.tokens

    def feed(self, data: bytes) -> None:
        if len(self.body) + len(data) > MAX_BYTES:
            self._owner.on_unusable("an answer too large to be one")
        elif self.held.grow(len(data)):
            self.body += data
        else:
            self._owner.on_full()

    def as_event(self) -> bytes:
        """Inside a stream that has begun: an engine's error, on one line."""
        body = bytes(self.body)
        return sse.event_of(body) if sse.begins_json(body) else errors.upstream_unreachable().event()
