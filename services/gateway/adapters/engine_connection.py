"""One connection to an engine: it sends a request and passes the response on, read by read."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import structlog
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from services.gateway.adapters.write_batcher import WriteBatcher
from services.gateway.core.request_body import Piece

MAX_HEAD_BYTES = 64 * 1024
"""Bytes in a row without any body: interim responses, heads, chunk extensions, trailers. No engine sends more."""
LARGE_READ = 128 * 1024
"""Bytes. After a read this large, all other work gets a turn before the next."""

log = structlog.get_logger()

_SINGLE = frozenset({b"content-type", b"content-length", b"retry-after"})
"""Headers that are not lists: if repeated, the first counts."""


class Sender(Protocol):
    """The sender of the request, as the connection sees it. `on_complete` or `on_closed` comes last."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        """Return the function that takes the pieces of the body."""

    def on_complete(self, connection: "EngineConnection", *, reusable: bool) -> None: ...

    def on_closed(self, reason: str) -> None: ...


@dataclass(slots=True, eq=False)
class EngineConnection(asyncio.Protocol):
    """Call `send` for one request at a time: its sender gets the response in callbacks.

    The parser only collects what a read brings; the callbacks run after the read. So nothing they do disturbs the
    parser, and the chunks of one read are passed on together.
    """

    batcher: WriteBatcher
    is_open: bool = False
    reads: int = 0
    """Number of reads since the request was sent."""
    on_body: Callable[[bytes], None] = field(init=False)
    """The parser's callback: keeps a piece until the read is delivered."""
    _pieces: list[bytes] = field(default_factory=list)
    _transport: asyncio.Transport = field(init=False)
    _parser: HttpResponseParser = field(init=False)
    _sender: Sender | None = None
    _sink: Callable[[bytes], None] | None = None
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _status: int = 0
    """0 until the head is complete."""
    _bodiless_bytes: int = 0
    """Bytes since the last piece of a body."""
    _complete: bool = False
    _reusable: bool = False
    _paused: bool = False
    _is_yielding: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the same methods, but not the class
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)
        self.is_open = True

    def send(self, request: list[Piece], sender: Sender) -> None:
        self._sender, self._sink = sender, None
        self._headers = {}
        self.reads = self._status = self._bodiless_bytes = 0
        self._complete = self._paused = False
        if len(request) == 1:
            self.batcher.write(self._transport, request[0])
        else:
            # In one write: an engine may reject the request by its head and close, which would break a second write,
            # and its response would be lost.
            self.batcher.flush()
            self._transport.writelines(request)

    def abort(self) -> None:
        """Close the connection; the sender gets nothing more."""
        self._sender = self._sink = None
        self.is_open = False
        self._transport.abort()

    def pause(self) -> None:
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if not self._is_yielding and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        sender, fault = self._sender, ""
        if sender is None:
            self.abort()  # the engine sent data without a request
            return
        self.reads += 1
        self._bodiless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            fault = "the engine switches protocols"
        except HttpParserError as error:
            fault = f"invalid HTTP: {error}"
        try:
            self._deliver(sender)
        except Exception:
            log.exception("engine_callback_failed")
            fault = "internal error"
        if self._sender is None:
            return  # a callback has aborted
        if self._bodiless_bytes > MAX_HEAD_BYTES:
            fault = "headers or chunk framing are too large"
        if self._complete:
            self._end(sender, reusable=self._reusable and not fault)
        elif fault:
            self.abort()
            sender.on_closed(fault)
        elif len(data) > LARGE_READ and not self._is_yielding:
            self._is_yielding = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._end_yield)

    def _deliver(self, sender: Sender) -> None:
        """Call the sender with what the read has brought."""
        if self._status and self._sink is None:
            sink = sender.on_head(self._status, self._headers)
            if self._sender is None:
                return
            self._sink = sink
        pieces = self._pieces
        if pieces and self._sink is not None:
            self._bodiless_bytes = 0
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._sink(body)

    def _end(self, sender: Sender, *, reusable: bool) -> None:
        self._sender = self._sink = None
        if self._paused:
            self.resume()  # the next request's client may be faster
        # The unsent rest of a request that was already answered would delay the next one.
        unsent = self._transport.is_closing() or self._transport.get_write_buffer_size() > 0
        sender.on_complete(self, reusable=reusable and not unsent)

    def _end_yield(self) -> None:
        self._is_yielding = False
        if not self._paused:
            self.resume()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        sender, self._sender, self._sink = self._sender, None, None
        del (
            self._parser,
            self.on_body,
        )  # they refer back to this object, and only the garbage collector would free all three
        if sender is None:
            return
        has_length = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        if self._status and not has_length and exc is None:
            sender.on_complete(self, reusable=False)  # a response that ends with its connection
        else:
            sender.on_closed(str(exc) if exc else "the engine closed the connection")

    # From the parser. An interim response such as 100 or 103 is a message of its own.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("data after the response")  # ends the parsing: no request asked for it
        if not self._status:
            self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # a trailer
        name = name.lower()
        if name not in self._headers:
            self._headers[name] = value
        elif name not in _SINGLE:
            self._headers[name] += b", " + value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()


def discard(_data: bytes) -> None:
    """Drop data that belongs to no response."""
