"""The response to a client, as bytes that go straight to the transport.

aiohttp's own response serialises a multidict and awaits each write. Here an engine's bytes are written in the call that
brought them, and aiohttp takes over once everything has been written.
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
"""Time for a client that still sends a body nobody reads: closing at once could cost it the response."""
SKIPPED_BYTES = 64 * 1024
"""An unread body up to this size is read and dropped; for a larger one the connection is closed."""
MAX_JOINED_BYTES = 64 * 1024
"""Bytes of a body that are copied to go out with the head."""
MAX_REFUSALS = 16
"""Responses in a row with a status of `REFUSALS`, after which the connection is closed."""
REFUSALS = frozenset({400, 401, 404})
SUPPORTED_VERSIONS = (HttpVersion11, HttpVersion10)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_CLOSE = b"Connection: close\r\n\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class ResponseHeaders:
    """The header lines that responses have in common. Call `refresh` once a second.

    Arguments:
        is_leaving: returns whether the gateway is shutting down, so that connections close after their responses.
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
        """Return a response's head, without the framing headers."""
        if response.key is not None and response.key.is_limited:
            fields += self._limits.headers(response.key, self._now())
        if self._cors is not None:
            fields += self._cors.fields(response.request.headers.get(hdrs.ORIGIN))
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"%b%bX-Request-Id: %b\r\n%b" % (line, self._standard, response.id.encode("ascii"), fields)


class ClientResponse(web.StreamResponse):
    """One response. Call `respond`; or `start`, `send` and `end`; or `fail` at any time before the end."""

    def __init__(self, request: web.BaseRequest, headers: ResponseHeaders, batcher: WriteBatcher, now: float) -> None:
        """`now` is the request's arrival in Unix seconds."""
        # aiohttp's constructor is not called: it would build headers and a status that nothing here uses.
        self.request = request
        self.arrived = now
        self.id = uuid7(now)
        """The gateway's id of the request, a UUIDv7."""
        self.key: KeyRecord | None = None
        """The client's key, once it is known to be valid."""
        self.sent_status = 0
        """The status that has been sent; 0: none has."""
        self.ended = False
        """Whether everything has been written."""
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
        """Raise `ApiError` (400, 408, 431) if the request's head is invalid."""
        connection, request = self.connection, self.request
        coding = request.headers.get(hdrs.TRANSFER_ENCODING)
        if connection.fault is None and coding is not None and coding.strip().lower() != "chunked":
            connection.fault = errors.malformed("the only supported Transfer-Encoding is chunked")
        if request.method == hdrs.METH_CONNECT or request.version not in SUPPORTED_VERSIONS:
            connection.fault = errors.malformed("only HTTP/1.1 and HTTP/1.0 are supported")
        if connection.fault is not None:
            raise connection.fault

    def send_continue(self) -> None:
        """Send `100 Continue` to a client that waits for it. An HTTP/1.0 client would take that for the response."""
        if self._is_chunked:
            self._write(CONTINUE)

    def respond(self, status: int, fields: bytes, body: Piece = b"", on_read: Callable[[], None] | None = None) -> None:
        """Send a complete response.

        `fields` are header lines; `on_read` is called once the client has read the response or left.
        """
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
        """Send the head of a stream, unless it has been sent already."""
        if not self.started:
            self.sent_status = 200
            framing = _CLOSE if not self._is_chunked or self._response_headers.is_leaving() else b"\r\n"
            framing = b"Transfer-Encoding: chunked\r\n" + framing if self._is_chunked else framing
            self._write(self._response_headers.head(self, 200, fields) + framing)

    def send(self, data: bytes) -> None:
        """Send a part of a stream; it must not be empty."""
        if self._transport is not None:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data
            self._batcher.write(self._transport, framed)

    def end(self, on_read: Callable[[], None] | None = None) -> None:
        self._close_or_keep(200)
        if self._is_chunked:
            self._write(LAST_CHUNK)
        self._finish(on_read)

    def fail(self, error: ApiError) -> None:
        """End with a gateway error: as the complete response, or as the last event of a stream."""
        if self.ended:
            return
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self.connection.fault = error  # the rest of the body is not read
        if self.started:
            self.send(error.event())
            self.end()
        else:
            self.respond(error.status, error.fields(), error.body())

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the head has been written."""

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature
        """Wait until the connection's next request may be handled, or the connection may be closed."""
        content = self.request.content
        if not self._keeps_alive:
            if not content.is_eof() or self.connection.fault is not None:
                await asyncio.sleep(LINGER_SECONDS)  # ends when the client closes
            return
        try:
            while not content.is_eof():
                await content.readany()
        except ApiError as fault:  # which the connection keeps
            fault.without_traceback()
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
