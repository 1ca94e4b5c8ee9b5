"""One client's connection: requests in, answers out, one after the other. Knows nothing of what is asked.

What has come is acted upon after each read, never inside the parser, so that nothing that an answer does can disturb
it. Every state has a deadline, which the front's clock holds it to.
"""

import asyncio
import math
from collections.abc import Callable
from typing import cast

import structlog

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import Piece
from services.gateway.http import head
from services.gateway.http.incoming import Incoming
from services.gateway.http.protocols import Application, Serving
from services.gateway.http.request import Request, peer_address

LINGER_SECONDS = 2.0
"""For a client that still sends what nobody reads any more: closing at once could cost it the answer."""
DISCARD_BYTES = 64 * 1024
"""A rest of a body that is read and dropped rather than closing the connection."""
MOST_JOINED_BYTES = 64 * 1024
"""Of an answer that is copied to go out with its head."""

log = structlog.get_logger()


class ClientConnection(asyncio.Protocol):
    """`respond`, or `start`, `send` and `end`, answer the request that was opened last."""

    __slots__ = (
        "_advancing",
        "_application",
        "_batcher",
        "_incoming",
        "_lingering",
        "_on_read",
        "_paused",
        "_peer",
        "_serving",
        "_transport",
        "_unsent",
        "deadline",
    )

    def __init__(self, application: Application) -> None:
        self._application = application
        self._batcher = application.batcher
        self._incoming = Incoming(application.settings, application.memory, self._begin)
        self._serving: Serving | None = None
        self._advancing = self._lingering = self._paused = False
        self._peer = ""
        self._on_read: list[Callable[[], None]] = []
        """To be called once the client has read what was written, or has gone."""
        self._unsent = 0
        """Bytes that the client had not taken when it was looked last."""
        self.deadline = math.inf
        """Monotonic seconds; the front calls `expire` when it has passed."""

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class
        self._peer = peer_address(transport.get_extra_info("peername"))
        self.deadline = self._application.now + self._application.settings.keepalive_timeout
        if not self._application.connected(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._lingering:
            self._incoming.now = self._application.now
            self._incoming.feed(data)
            self._advance()

    def eof_received(self) -> bool:
        self._batcher.flush()  # one who sends no more may still read what is answered already
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._application.disconnected(self)
        self._lingering = True
        self.deadline = math.inf
        serving, self._serving = self._serving, None
        self._incoming.close()
        self._all_read()
        if serving is not None:
            serving.gone()

    def pause_writing(self) -> None:
        self._paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._arm()
        if self._serving is not None:
            self._serving.pause()

    def resume_writing(self) -> None:
        self._paused = False
        self._all_read()
        self._arm()
        if self._serving is not None:
            self._serving.resume()
        self._transport.resume_reading()
        self._advance()

    # From whoever answers.

    def respond(
        self, request: Request, status: int, fields: bytes, body: Piece, on_read: Callable[[], None] | None = None
    ) -> None:
        """The whole answer. `fields` are header lines, each with its end."""
        keep = self._keeps(request)
        length = b"Content-Length: %d\r\n\r\n" if keep else b"Content-Length: %d\r\nConnection: close\r\n\r\n"
        answer_head = self._head(request, status, fields) + length % len(body)
        if request.method == "HEAD":
            self._batcher.write(self._transport, answer_head)
        elif len(body) <= MOST_JOINED_BYTES:
            self._batcher.write(self._transport, answer_head + body)
        else:
            self._batcher.write(self._transport, answer_head)
            self._batcher.write(self._transport, body)
        self._when_read(on_read)
        self._answered(request, keep=keep)

    def start(self, request: Request, status: int, fields: bytes) -> None:
        """The head of an answer that comes in pieces."""
        ending = b"Transfer-Encoding: chunked\r\n\r\n" if request.version == "1.1" else b"Connection: close\r\n\r\n"
        self._batcher.write(self._transport, self._head(request, status, fields) + ending)

    def send(self, request: Request, data: bytes) -> None:
        """One piece of it; may not be empty."""
        self._batcher.write(self._transport, b"%x\r\n%b\r\n" % (len(data), data) if request.version == "1.1" else data)

    def end(self, request: Request, on_read: Callable[[], None] | None = None) -> None:
        if request.version == "1.1":
            self._batcher.write(self._transport, head.LAST_PIECE)
        self._when_read(on_read)
        self._answered(request, keep=self._keeps(request))

    def proceed(self) -> None:
        """Answer `Expect: 100-continue`."""
        self._batcher.write(self._transport, head.CONTINUE)

    # From the front.

    def expire(self) -> None:
        """The deadline has passed."""
        self.deadline = math.inf
        settings = self._application.settings
        if self._lingering or self._paused:
            unsent = self._transport.get_write_buffer_size()
            if 0 < unsent < self._unsent:
                self._unsent = unsent
                self.deadline = self._application.now + settings.write_timeout
            else:
                self._transport.abort()
        elif self._incoming.requests:
            self._refuse(errors.request_timeout(settings.body_timeout))
        elif self._incoming.in_head:
            self._refuse(errors.request_timeout(settings.head_timeout))
        else:
            self._transport.abort()

    def close_idle(self) -> None:
        """The gateway is leaving."""
        if not self._incoming.requests and not self._incoming.in_head:
            self._batcher.flush()
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _begin(self, request: Request) -> None:
        request.peer = self._peer
        self._application.begin(request)

    @property
    def unread(self) -> int:
        """Whole answers that are counted until the client has read them."""
        return len(self._on_read)

    def _all_read(self) -> None:
        while self._on_read:
            self._on_read.pop()()

    def _advance(self) -> None:
        """Act upon what has come so far."""
        if self._advancing:
            return
        self._advancing = True
        requests, incoming = self._incoming.requests, self._incoming
        try:
            while requests and not self._lingering and not self._paused and self._go_on(requests[0]):
                pass
            if incoming.fault is not None and not self._lingering and (not requests or not requests[0].complete):
                self._refuse(incoming.fault)
        except Exception:  # whatever it is, it is ours, and its client is to hear so
            log.exception("a fault of ours")
            self._refuse(errors.internal_error())
        finally:
            self._advancing = False
        waiting = bool(requests) and not requests[0].opened
        if len(requests) > 1 or waiting:
            self._transport.pause_reading()  # a client that asks ahead is read on when its turn has come
        if waiting and self._application.memory.crowded:
            self._transport.abort()
        self._arm()

    def _go_on(self, request: Request) -> bool:
        """One step for the request whose turn it is; False: nothing to do until something comes."""
        if not request.opened:
            request.opened = True
            request.body_deadline = self._application.now + self._application.settings.body_timeout
            serving = self._application.open(request, self)
            self._serving = None if request.answered else serving
        if request.complete and not (request.delivered or request.answered):
            request.delivered = True
            assert self._serving is not None, "a request that is not answered has somebody to answer it"
            self._serving.receive(request.take_body())
        if not (request.answered and request.complete):
            return False
        self._incoming.requests.popleft()
        if len(self._incoming.requests) == 1:
            self._transport.resume_reading()
        return True

    def _refuse(self, error: ApiError) -> None:
        """What comes next cannot be understood, or is not wanted: answer, and close."""
        self._serving = None
        requests = self._incoming.requests
        request = requests[0] if requests else self._incoming.broken_head()
        request.opened = True
        request.keep_alive = request.complete = False
        if request.answered:
            self._linger()
        else:
            self._application.refuse(request, self, error)

    def _head(self, request: Request, status: int, fields: bytes) -> bytes:
        every, cors = self._application.every_answer, self._application.cors
        if cors is not None:
            fields += cors.fields(request.header(b"origin"))
        return b"%b%bX-Request-Id: %b\r\n%b" % (head.status_line(status), every, request.id.encode("ascii"), fields)

    def _keeps(self, request: Request) -> bool:
        """Whether the connection goes on after this answer."""
        if not request.keep_alive or self._application.leaving or self._incoming.fault is not None:
            return False
        if request.complete:
            return True
        length = request.content_length
        return length is not None and length <= DISCARD_BYTES and b"expect" not in request.headers

    def _when_read(self, on_read: Callable[[], None] | None) -> None:
        """It is called once the client has read all but what the system holds, or has gone."""
        if on_read is not None:
            self._on_read.append(on_read)
            if not self._paused:
                self._all_read()

    def _answered(self, request: Request, *, keep: bool) -> None:
        request.answered = True
        request.drop_body()
        self._serving = None
        self.deadline = math.inf
        if keep:
            self._advance()
        elif request.complete:
            self._lingering = True
            self._batcher.flush()
            self._unsent = self._transport.get_write_buffer_size()
            self.deadline = self._application.now + self._application.settings.write_timeout
            self._transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """What still comes is read and dropped, until the client closes or its time is up."""
        self._lingering = True
        self.deadline = self._application.now + LINGER_SECONDS
        self._batcher.flush()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _arm(self) -> None:
        """The deadline of what is waited for now."""
        if self._lingering:
            return
        settings, requests = self._application.settings, self._incoming.requests
        if self._paused:
            self.deadline = self._application.now + settings.write_timeout
        elif requests:
            self.deadline = math.inf if requests[0].complete else requests[0].body_deadline
        elif self._incoming.in_head:
            self.deadline = self._incoming.head_deadline
        elif self.deadline == math.inf:
            self.deadline = self._application.now + settings.keepalive_timeout
