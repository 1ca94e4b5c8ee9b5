"""A client's connection: a deadline for each of its states, back-pressure, and its end."""

import asyncio
import fcntl
import math
import struct
import termios
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import structlog
from aiohttp import web

from services.gateway.adapters.http.bounded_request_handler import BoundedRequestHandler
from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.core import errors

if TYPE_CHECKING:
    from services.gateway.adapters.http.connections import Connections

MIN_READ_BYTES = 16 * 1024
"""Bytes that a client must take within `write_timeout`, if that many are pending: a trickle is not enough."""

LAST_STEPS = 8
"""Event loop iterations after a client has shut down its sending side, in which it may still get a response."""

log = structlog.get_logger()


class FlowControl(Protocol):
    """What a slow client pauses: the flow from the engine."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class ClientConnection(BoundedRequestHandler):
    """One connection. Deadlines are on the clock `Connections.now`."""

    def __init__(self, server: web.Server, connections: "Connections") -> None:
        super().__init__(server, connections.settings.max_head_bytes, connections.memory)
        self._connections = connections
        self._body_deadline = math.inf
        self._unsent = 0
        """Bytes that the client had not taken when its last write deadline was set."""
        self._closing = False
        self._on_read: list[Callable[[], None]] = []
        self.address = ""
        """The peer's address: the client's, or that of a proxy in front of the gateway."""
        self.deadline = math.inf
        """When to call `expire`."""
        self.flow: FlowControl | None = None
        self.refusals = 0
        """Responses in a row with a status of `REFUSALS`."""

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        name = transport.get_extra_info("peername")
        self.address = str(name[0]) if isinstance(name, tuple) and name else ""
        if not self._connections.admit(self):
            transport.abort()  # type: ignore[attr-defined]  # a socket's transport is an asyncio.Transport
            return
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's protocol may return one, aiohttp's does not
        """Keep the transport open for a moment: the client has left, or it still reads its response."""
        self._close_in(LAST_STEPS)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        self.deadline = math.inf
        super().connection_lost(exc)
        self._run_on_read()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_write_deadline()
        if self.flow is not None:
            self.flow.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._run_on_read()
        self._set_deadline()
        if self.flow is not None:
            self.flow.resume()

    # From the parsing.

    def on_head_begin(self) -> None:
        self.deadline = self._connections.now + self._connections.settings.head_timeout

    def on_head(self) -> None:
        self._body_deadline = self.deadline = self._connections.now + self._connections.settings.body_timeout
        self._connections.on_busy(self)

    def on_request_received(self) -> None:
        if not self.writing_paused:
            self.deadline = math.inf

    def on_response_sent(self) -> None:
        self._connections.on_idle(self)
        self._set_deadline()

    # From aiohttp.

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response, then parse what the client has pipelined."""
        if not isinstance(resp, ClientResponse):  # aiohttp's own, for a target that is not a path
            resp = self._connections.respond_with_error(request, errors.not_found(request.path))
        result = await super().finish_response(request, resp, start_time)
        if resp.keep_alive:
            self.next_request()
        return result

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to invalid HTTP. After an internal error the handler has already responded as far as it could."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("handler_failed", exc_info=exc)
            self.abort()
            raise ConnectionError("internal error")
        return self._connections.respond_with_error(request, self.set_fault(exc, message))

    # From the response.

    def call_when_read(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the client has read all but what the kernel buffers, or has left."""
        if self.writing_paused and self.transport is not None:
            self._on_read.append(callback)
        else:
            callback()

    @property
    def unread(self) -> int:
        """Number of complete responses that the client has not read yet."""
        return len(self._on_read)

    def stop_reading(self) -> None:
        """Drop whatever the client still sends: this response is the last one."""
        self._closing = True
        self._set_write_deadline()
        self.close()

    # From the clock and the drain.

    @property
    def is_idle(self) -> bool:
        return not self.is_busy and not self.head_bytes

    @property
    def has_unsent(self) -> bool:
        """Whether bytes are left to write because the client reads slowly."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def close_gracefully(self) -> None:
        """Stop reading, and close once everything written has been sent."""
        self._connections.batcher.flush()
        self.close()
        if self.transport is not None:
            self.transport.close()

    def expire(self) -> None:
        """Act on a deadline that has passed: respond with an error, or close."""
        self.deadline = math.inf
        settings = self._connections.settings
        if self.writing_paused or self._closing:
            unsent = self._unsent
            self._set_write_deadline()
            if not 0 < self._unsent <= unsent - MIN_READ_BYTES:
                self.abort()
        elif self.is_busy:
            self.fail(errors.request_timeout(settings.body_timeout))
        elif self.head_bytes:
            self.fail(errors.request_timeout(settings.head_timeout))
        else:
            self.abort()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _close_in(self, steps: int) -> None:
        if steps and self.is_busy:
            asyncio.get_running_loop().call_soon(self._close_in, steps - 1)
        elif self.transport is not None:
            self._connections.batcher.flush()
            self.transport.close()

    def _set_write_deadline(self) -> None:
        self._unsent = 0 if self.transport is None else _unsent_bytes(self.transport)
        self.deadline = self._connections.now + self._connections.settings.write_timeout

    def _set_deadline(self) -> None:
        """Set the deadline of the current state."""
        if self._closing or self.writing_paused:
            return
        if self.is_busy:
            self.deadline = self._body_deadline if self.is_receiving_body else math.inf
        else:
            self.deadline = self._connections.now + self._connections.settings.keepalive_timeout

    def _run_on_read(self) -> None:
        while self._on_read:
            self._on_read.pop()()


def _unsent_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes that the client's system has not acknowledged, in this process and in the kernel.

    The kernel takes a megabyte at a time, so this process's buffer alone would seem to stand still under a slow reader.
    """
    queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int(struct.unpack("i", queued)[0])
