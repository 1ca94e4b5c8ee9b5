"""The response to a client's request, as bytes that go straight to its transport.

aiohttp's own response serialises a multidict and awaits each write. Here the bytes of an engine are written in the call
that brought them, and aiohttp is told once all has been written.
"""

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11

from services.gateway.adapters.write_batcher import WriteBatcher
from services.gateway.core import errors
from services.gateway.core.cors import Cors
from services.gateway.core.errors import ApiError
from services.gateway.core.rate_limits import RateLimiter
from services.gateway.core.request_body import Piece
from shared.ids import uuid7
from shared.messages.keys import KeyRecord

if TYPE_CHECKING:
    from services.gateway.adapters.http.client_connection import ClientConnection

LINGER_SECONDS = 2.0
"""For a client that still sends what nobody reads any more: closing at once could cost it the response."""
SKIPPED_BYTES = 64 * 1024
"""A rest of a body that is read and dropped rather than closing the connection."""
MAX_JOINED_BYTES = 64 * 1024
"""Of a body that is copied to go out with its head."""
MAX_REFUSALS = 16
"""Responses in a row with one of `REFUSALS`, after which a connection is closed."""
REFUSALS = frozenset({400, 401, 404})
SUPPORTED_VERSIONS = (HttpVersion11, HttpVersion10)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_CLOSE = b"Connection: close\r\n\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class ResponseHeaders:
    """The header lines that responses have in common. `refresh` once a second.

    Arguments:
        is_leaving: Whether the gateway takes nothing more, so that connections are closed behind their responses.
    """

    def __init__(
        self, limits: RateLimiter, cors: Cors | None, *, is_leaving: Callable[[], bool], now: Callable[[], float]
    ) -> None:
        self.is_leaving = is_leaving
        self._limits = limits
        self._cors = cors
        self._now = now
        self._standard = b""
        self.refresh()

    def refresh(self) -> None:
        self._standard = b"Server: spotinference\r\nDate: %b\r\n" % formatdate(self._now(), usegmt=True).encode()

    def head(self, response: "ClientResponse", status: int, fields: bytes) -> bytes:
        """All of a response's head but its framing."""
        if response.key is not None and response.key.limited:
            fields += self._limits.headers(response.key, self._now())
        if self._cors is not None:
            fields += self._cors.fields(response.request.headers.get(hdrs.ORIGIN))
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"%b%bX-Request-Id: %b\r\n%b" % (line, self._standard, response.id.encode("ascii"), fields)


class ClientResponse(web.StreamResponse):
    """`respond`; or `start`, `send` and `end`; or `fail` at any time before the end. The handler then returns it."""

    def __init__(self, request: web.BaseRequest, headers: ResponseHeaders, batcher: WriteBatcher, now: float) -> None:
        """`now`: Unix seconds; the request's arrival."""
        # aiohttp's own constructor makes headers and a status, which nothing here uses.
        self.request = request
        self.arrived = now
        self.id = uuid7(now)
        """Ours, of the request: a UUIDv7."""
        self.key: KeyRecord | None = None
        """The client's, once it is known to be valid."""
        self.sent_status = 0
        """Of the head that has been written; 0: none has."""
        self.ended = False
        """All of it has been written: nothing can be added."""
        self._response_headers = headers
        self._batcher = batcher
        self.connection = cast("ClientConnection", request.protocol)
        self._transport = request.transport
        self._is_chunked = request.version == HttpVersion11
        self._keeps_alive = False

    def __repr__(self) -> str:
        return f"<ClientResponse {self.id} status={self.sent_status or None}>"  # aiohttp's reads what is never set here

    @property
    def started(self) -> bool:
        return self.sent_status > 0

    @property
    def keep_alive(self) -> bool:
        return self._keeps_alive

    def check_head(self) -> None:
        """Raise `ApiError` (400, 408, 431) if the request's head was read and may not be believed."""
        connection, request = self.connection, self.request
        coding = request.headers.get(hdrs.TRANSFER_ENCODING)
        if connection.fault is None and coding is not None and coding.strip().lower() != "chunked":
            connection.fault = errors.malformed("of the transfer encodings only chunked is understood")
        if request.method == hdrs.METH_CONNECT or request.version not in SUPPORTED_VERSIONS:
            connection.fault = errors.malformed("this server speaks HTTP/1.1 and HTTP/1.0 alone")
        if connection.fault is not None:
            raise connection.fault

    def send_continue(self) -> None:
        """Ask for the body of a client that waits for `100 Continue`; one of HTTP/1.0 would take that for all."""
        if self._is_chunked:
            self._write(CONTINUE)

    def respond(self, status: int, fields: bytes, body: Piece = b"", on_read: Callable[[], None] | None = None) -> None:
        """Send a whole response. `fields` are header lines; `on_read` is called once the client has read it or left."""
        self._close_or_keep(status)
        self.sent_status = status
        framing = b"Content-Length: %d\r\n%b" % (len(body), b"\r\n" if self._keeps_alive else _CLOSE)
        head = self._response_headers.head(self, status, fields) + framing
        if self.request.method == hdrs.METH_HEAD:
            self._write(head)
        elif len(body) <= MAX_JOINED_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)
        self._finish(on_read)

    def start(self, fields: bytes) -> None:
        """Send the head of a stream, unless it has been sent."""
        if not self.started:
            self.sent_status = 200
            self._write(self._response_headers.head(self, 200, fields) + (_CHUNKED if self._is_chunked else _CLOSE))

    def send(self, data: bytes) -> None:
        """Send a part of it, which is not empty."""
        if self._transport is not None:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data
            self._batcher.write(self._transport, framed)

    def end(self, on_read: Callable[[], None] | None = None) -> None:
        self._close_or_keep(200)
        if self._is_chunked:
            self._write(LAST_CHUNK)
        self._finish(on_read)

    def fail(self, error: ApiError) -> None:
        """End with an error of ours: as the whole response, or as the last event of a stream."""
        if self.ended:
            return
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self.connection.fault = error  # what still comes of the body is not wanted
        if self.started:
            self.send(error.event())
            self.end()
        else:
            self.respond(error.status, error.fields(), error.body())

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing: the head has been written."""

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature
        """Wait until the next request of the connection may be taken up, or the connection closed."""
        content = self.request.content
        if not self._keeps_alive:
            if not content.is_eof() or self.connection.fault is not None:
                await asyncio.sleep(LINGER_SECONDS)  # ends when the client closes
            return
        try:
            while not content.is_eof():
                await content.readany()
        except ApiError:
            self._keeps_alive = False
        await self.request.writer.drain()

    def _close_or_keep(self, status: int) -> None:
        connection, request = self.connection, self.request
        connection.refusals = connection.refusals + 1 if status in REFUSALS else 0
        self._keeps_alive = (
            self._is_chunked
            and request.keep_alive
            and not self._response_headers.is_leaving()
            and connection.fault is None
            and connection.refusals < MAX_REFUSALS
            and (request.content.is_eof() or self._can_skip_body())
        )

    def _can_skip_body(self) -> bool:
        length = self.request.content_length
        return length is not None and length <= SKIPPED_BYTES and hdrs.EXPECT not in self.request.headers

    def _write(self, data: bytes | memoryview) -> None:
        if self._transport is not None:
            self._batcher.write(self._transport, data)

    def _finish(self, on_read: Callable[[], None] | None) -> None:
        self.ended = True
        if on_read is not None:
            self.connection.call_when_read(on_read)
        if self._keeps_alive or self._transport is None:
            return
        self._batcher.flush()
        self.connection.stop_reading()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
