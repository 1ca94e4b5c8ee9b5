"""One connection to an engine: a request out, its answer in, piece by piece as it comes."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import structlog
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from services.gateway.core.request_body import Piece
from services.gateway.write_batcher import WriteBatcher

MAX_HEAD_BYTES = 64 * 1024
"""Bytes in a row that bring nothing of a body: interim answers, a head, a chunk's extensions, trailers. No engine sends
more."""
LARGE_READ = 128 * 1024
"""After one this large everybody else has a turn before the next."""

log = structlog.get_logger()

_SINGLE = frozenset({b"content-type", b"content-length", b"retry-after"})
"""Headers that are no lists: of several the first counts."""


class Answered(Protocol):
    """Who asked. `on_complete` or `on_closed` comes last."""

    def on_bytes(self) -> None: ...

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        """Returns who takes the body's pieces."""

    def on_complete(self, connection: "EngineConnection", *, reusable: bool) -> None: ...

    def on_closed(self, reason: str) -> None: ...


class EngineConnection(asyncio.Protocol):
    """`send`, and wait for the one who asked to be told; then again."""

    __slots__ = (
        "_batcher",
        "_bodiless",
        "_call",
        "_complete",
        "_has_head",
        "_headers",
        "_parser",
        "_paused",
        "_resting",
        "_reusable",
        "_sink",
        "_transport",
        "alive",
    )

    def __init__(self, batcher: WriteBatcher) -> None:
        self._batcher = batcher
        self._call: Answered | None = None
        self._sink: Callable[[bytes], None] = discard
        self._headers: dict[bytes, bytes] = {}
        self._bodiless = 0
        """Bytes since a piece of a body came."""
        self._complete = self._has_head = self._reusable = False
        self._paused = self._resting = False
        self.alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class
        self._parser = HttpResponseParser(self)
        self.alive = True

    def send(self, request: list[Piece], call: Answered) -> None:
        self._call = call
        self._headers = {}
        self._bodiless = 0
        self._complete = self._has_head = self._paused = False
        if len(request) == 1:
            self._batcher.write(self._transport, request[0])
        else:
            # In one go: an engine that refuses by the head alone, and closes, would break the write of what follows,
            # and its answer would be lost with it.
            self._batcher.flush()
            self._transport.writelines(request)

    def abort(self) -> None:
        """Nothing is told any more."""
        self._call = None
        self._sink = discard
        self.alive = False
        self._transport.abort()

    def pause(self) -> None:
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if not self._resting and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.abort()  # an engine that speaks unasked
            return
        self._call.on_bytes()
        self._bodiless += len(data)
        fault = self._parse(data)
        call = self._call
        if call is None:
            return  # aborted by what it was told
        if self._bodiless > MAX_HEAD_BYTES:
            fault = "its answer has more beside the body than any engine's"
        if self._complete:
            self._call = None
            if self._paused:
                self.resume()  # for the next one, whose reader may be faster
            # What is left of a request that was answered before it was sent would keep the next one waiting.
            unsent = self._transport.is_closing() or self._transport.get_write_buffer_size() > 0
            call.on_complete(self, reusable=self._reusable and not fault and not unsent)
        elif fault:
            self.abort()
            call.on_closed(fault)
        elif len(data) > LARGE_READ and not self._resting:
            self._resting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._rested)

    def _parse(self, data: bytes) -> str:
        """What is wrong with it, or nothing."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return "it wants another protocol"
        except HttpParserCallbackError:
            log.exception("engine_callback_failed")
            return "a fault of ours"
        except HttpParserError as error:
            return f"no HTTP: {error}"
        return ""

    def _rested(self) -> None:
        self._resting = False
        if not self._paused:
            self.resume()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        call, self._call = self._call, None
        ends_here = self._ends_with_connection() and exc is None
        del self._parser  # it holds our methods: without this only the collector would free the two
        if call is None:
            return
        if ends_here:
            call.on_complete(self, reusable=False)
        else:
            call.on_closed(str(exc) if exc else "closed the connection")

    # From the parser. What follows a complete answer in the same read belongs to nobody.

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False
        else:
            self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # a trailer, or of another answer
        name = name.lower()
        if name not in self._headers:
            self._headers[name] = value
        elif name not in _SINGLE:
            self._headers[name] += b", " + value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._call is not None and not self._complete:
            self._has_head = True
            sink = self._call.on_head(status, self._headers)
            if self._call is not None:  # else it has hung up
                self._sink = sink

    def on_body(self, data: bytes) -> None:
        self._bodiless = 0
        self._sink(data)

    def on_message_complete(self) -> None:
        # What comes before the answer proper, such as 100 or 103, is a message of its own.
        if not self._complete and self._parser.get_status_code() >= 200:
            self._complete = True
            self._sink = discard
            self._reusable = self._parser.should_keep_alive()

    def _ends_with_connection(self) -> bool:
        """Whether an answer is under way that says neither its length nor comes in chunks."""
        known = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        return self._has_head and not known


def discard(_data: bytes) -> None:
    """Takes what belongs to no answer."""
