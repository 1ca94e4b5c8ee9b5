"""aiohttp's request handler with one request at a time, and with bounds on heads and framing that aiohttp lacks.

Private attributes of aiohttp are used here and nowhere else; `tests/unit/gateway/test_aiohttp_internals.py` fails when
an upgrade changes them.
"""

import asyncio
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

from services.gateway.core import errors
from services.gateway.core.body_framing import BodyFraming
from services.gateway.core.buffer_memory import BufferedBytes, BufferMemory
from services.gateway.core.errors import ApiError
from shared.units import DAY_S

READ_BYTES = 64 * 1024
"""Bytes of an unread body, of which twice as many pause the reading; also of pipelined data."""
MAX_FRAMING_BYTES = 512 * 1024
"""Bytes of a request besides its body: the head, data that is not parsed yet, and a little framing."""
FRAMING_PER_BYTE = 8
"""Bytes of chunk framing per byte of body: slightly more than for a body sent one byte at a time."""
MAX_HEADERS = 128
"""Header lines of a request: each costs about 300 bytes on top of its own, before the key is known."""
NEVER_SECONDS = 10 * 365 * DAY_S
"""Disables aiohttp's own timer of idle connections: the gateway's clock does that."""
_ILLEGAL = b"\0"
"""A byte that is invalid in a request's head."""
_BLANK_LINE = b"\r\n\r\n"
"""The end of a head."""


class BoundedRequestHandler(web.RequestHandler):
    """Parses nothing behind a request that is being received or answered. A subclass gets a callback per stage."""

    def __init__(self, server: web.Server, max_head_bytes: int, memory: BufferMemory) -> None:
        no_log: dict[str, Any] = {"access_log": None}
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=NEVER_SECONDS,
            lingering_time=0,
            auto_decompress=False,
            read_bufsize=READ_BYTES,
            **no_log,
        )
        self._max_head_bytes = max_head_bytes
        self._parser = self._make_parser()
        self._memory = memory
        self._payload: StreamReader | None = None
        """The body of the request that is being received or answered."""
        self._pipelined = b""
        """Unparsed data behind that request."""
        self._is_paused = False
        self._framing = BodyFraming(0)
        self._last = b""
        """The last bytes of an incomplete head, since a blank line may begin in them."""
        self._needs_new_parser = False
        self._raw_bytes = 0
        """Bytes since the request began, for comparison with the body's."""
        self.head_bytes = 0
        """Bytes of an incomplete head."""
        self.fault: ApiError | None = None
        """Why nothing that follows can be parsed, or is read."""
        self.buffered = BufferedBytes(memory)
        """Accounts for the bytes of `_pipelined`."""

    def _make_parser(self) -> HttpRequestParser:
        """Make a parser. aiohttp's own bounds are per line; the parser pauses after each message."""
        return HttpRequestParser(
            self,
            asyncio.get_running_loop(),
            READ_BYTES,
            max_line_size=self._max_head_bytes,
            max_field_size=self._max_head_bytes,
            max_headers=MAX_HEADERS,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=1,
        )

    @property
    def is_receiving_body(self) -> bool:
        """Whether a request's head has arrived, but not all of its body."""
        return self._payload is not None and not self._payload.is_eof()

    @property
    def _has_whole_request(self) -> bool:
        """Whether the parser has been fed a complete request, which it may not have processed yet."""
        return self._payload is not None and (self._payload.is_eof() or self._framing.is_complete)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self._payload is not None

    def on_head_begin(self) -> None:
        """Called with the first bytes of a request."""

    def on_head(self) -> None:
        """Called when the head of a request is complete."""

    def on_request_received(self) -> None:
        """Called when the complete request has arrived."""

    def on_response_sent(self) -> None:
        """Called when the request has been answered and the connection stays open."""

    def data_received(self, data: bytes) -> None:
        """Parse the data; empty data resumes a parser that an unread body had stopped."""
        if self.is_receiving_body and not data:
            self._feed(data)
        elif self._has_whole_request:
            self._keep_pipelined(data)
        else:
            self._parse(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume reading. aiohttp calls this at each read of a body, whether or not it has paused.

        A pause because of many small chunks stops the parser at the next piece, after reading has been resumed.
        """
        if self._reading_paused or self._needs_new_parser:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.buffered.release()
        self._payload, self._pipelined = None, b""

    def next_request(self) -> None:
        """Continue with the pipelined data, once the request has been answered."""
        self._payload = None
        self.buffered.release()
        self.on_response_sent()
        data, self._pipelined, self._last = self._pipelined, b"", b""
        self._parse(data)
        # If one complete request follows another, more may be in the data that has been read.
        if self._is_paused and not self._has_whole_request and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()

    def fail(self, error: ApiError) -> None:
        """Fail the request that is being received; without one, make aiohttp report the error."""
        self.fault = error
        if self._payload is None:
            self._feed(_ILLEGAL)
        else:
            self._payload.set_exception(error)

    def set_fault(self, cause: BaseException | None, message: str | None) -> ApiError:
        """Keep and return the reason why the parser stopped."""
        if self.fault is None:
            if isinstance(cause, LineTooLong) or (message or "").startswith("Too many headers"):
                self.fault = errors.head_too_large(self._max_head_bytes)
            else:
                self.fault = _malformed(message)
        return self.fault

    def _keep_pipelined(self, data: bytes) -> None:
        """Keep data behind the request that is being answered, and stop reading once it is a lot.

        That a client has left shows only while its connection is read.
        """
        if not data or self.transport is None or self.fault is not None:
            return
        if self._memory.is_crowded or not self.buffered.grow(len(data)):
            self.transport.abort()
            return
        self._pipelined += data
        if len(self._pipelined) >= READ_BYTES:
            self._is_paused = True
            self.transport.pause_reading()

    def _parse(self, data: bytes) -> None:
        """Feed the parser one request at most: it takes the last trailer of one request for a header of the next."""
        at = 0
        while at < len(data) and not self._has_whole_request and self.fault is None:
            start = at
            if self._payload is None:
                at = self._find_end_of_head(data, start)
            else:
                try:
                    at = self._framing.find_end(data, start)
                except ValueError:
                    self.fail(errors.malformed("a chunk size is invalid"))
                    return
            self._feed(data[start:at])
        self._keep_pipelined(data[at:])

    def _find_end_of_head(self, data: bytes, start: int) -> int:
        """Return the earliest possible end of the head; blank lines before the head do not count."""
        most = len(_BLANK_LINE) - 1
        across = (self._last + data[start : start + most]).find(_BLANK_LINE)
        if across >= 0:
            end = start - len(self._last) + across + len(_BLANK_LINE)
        else:
            end = data.find(_BLANK_LINE, start) + len(_BLANK_LINE)
            end = end if end > most else len(data)
        self._last = (self._last + data[max(start, end - most) : end])[-most:]
        return end

    def _feed(self, data: bytes) -> None:
        if self._payload is not None:
            self._feed_body(self._payload, data)
            return
        super().data_received(data)
        if self._messages:
            self._on_head(len(data))
        elif self.head_bytes or data.strip(b"\r\n"):  # blank lines before a request are ignored
            self._on_part_of_head(len(data))

    def _feed_body(self, payload: StreamReader, data: bytes) -> None:
        queued = len(self._messages)
        super().data_received(data)
        self._raw_bytes += len(data)
        if len(self._messages) > queued:
            # The rest of the body is invalid: its own handler gets the error, not a new one.
            error, _ = self._messages.pop()
            self.fail(_malformed(_message_of(error)))
        elif payload.is_eof():
            self._on_request_received()
        elif self._raw_bytes > MAX_FRAMING_BYTES + (1 + FRAMING_PER_BYTE) * payload.total_bytes:
            self.fail(errors.malformed("the chunk framing is larger than the body"))

    def _on_part_of_head(self, size: int) -> None:
        if not self.head_bytes:
            self.on_head_begin()
        self.head_bytes += size
        if self.head_bytes > self._max_head_bytes:
            self.fail(errors.head_too_large(self._max_head_bytes))

    def _on_head(self, size: int) -> None:
        message, self._payload = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            # An offer to switch protocols, such as to HTTP/2 by Java's client, is declined: what follows is HTTP.
            self._needs_new_parser = message.chunked or message.upgrade
            length = None if message.chunked else int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
            self._framing = BodyFraming(length)
            if self.head_bytes + size > self._max_head_bytes:  # the rest came in one read
                self.fault = errors.head_too_large(self._max_head_bytes)
        else:
            self.set_fault(message.exc, _message_of(message))
        self.head_bytes, self._raw_bytes = 0, size
        self.on_head()
        if self._payload.is_eof():
            self._on_request_received()

    def _on_request_received(self) -> None:
        if self._needs_new_parser:
            self._parser = self._make_parser()
        self.on_request_received()


def _message_of(reported: Any) -> str | None:
    """Return what the parser says, and forget where it raised that: the frames hold the connection."""
    cause: BaseException | None = getattr(reported, "exc", None)
    if cause is not None:
        cause.__traceback__ = cause.__context__ = None
    return getattr(reported, "message", None)


def _malformed(message: str | None) -> ApiError:
    return errors.malformed((message or "it cannot be parsed").partition("\n")[0].rstrip(":. ")[:200])
