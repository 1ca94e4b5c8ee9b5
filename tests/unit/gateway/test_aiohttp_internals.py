"""What is used of aiohttp beyond its documentation: an upgrade that changes any of it fails here."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from tests.unit.gateway.wire import Wire, turns, until

HOST = b"Host: x\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /b HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eHh4\r\n",
    "tcp": b"Connection: upgrade\r\nUpgrade: tcp\r\n",
}
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Bare(web.StreamResponse):
    """One that writes nothing, and whose constructor is not aiohttp's."""

    def __init__(self, *, keeps: bool = True, breaks: bool = False) -> None:
        self.calls: list[str] = []
        self._keeps, self._breaks = keeps, breaks

    @property
    def keep_alive(self) -> bool:
        self.calls.append("keep_alive")
        return self._keeps

    async def prepare(self, request: web.BaseRequest) -> None:
        self.calls.append("prepare")

    async def write_eof(self, data: bytes = b"") -> None:
        self.calls.append("write_eof")
        if self._breaks:
            raise ConnectionError


class Protocol(web.RequestHandler):
    """aiohttp's own, with a parser for one message."""

    def __init__(self, handler: Handler) -> None:
        no_log: dict[str, None] = {"access_log": None}
        super().__init__(
            web.Server(handler, handler_cancellation=True),
            loop=asyncio.get_running_loop(),
            keepalive_timeout=1e9,
            lingering_time=0,
            auto_decompress=False,
            read_bufsize=1024,
            **no_log,  # type: ignore[arg-type]  # None: no log at all
        )
        self._parser = new_parser(self)
        self.errors: list[tuple[int, BaseException | None, str | None]] = []
        self.finished: list[tuple[web.StreamResponse, bool]] = []
        self.fed: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.fed.append(data)
        super().data_received(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        result = await super().finish_response(request, resp, start_time)
        self.finished.append(result)
        return result

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        self.errors.append((status, exc, message))
        return Bare(keeps=False)


def new_parser(protocol: BaseProtocol) -> HttpRequestParser:
    return HttpRequestParser(
        protocol,
        asyncio.get_running_loop(),
        1024,
        max_line_size=300,
        max_field_size=300,
        max_headers=20,
        payload_exception=web.RequestPayloadError,
        auto_decompress=False,
        max_msg_queue_size=1,
    )


async def nobody(_request: web.BaseRequest) -> web.StreamResponse:
    return Bare()


@pytest.fixture
async def parser() -> HttpRequestParser:
    return new_parser(Protocol(nobody))


def connect(handler: Handler) -> tuple[Protocol, Wire]:
    protocol, wire = Protocol(handler), Wire()
    wire.protocol = protocol  # type: ignore[assignment]  # the transport tells it that it is lost
    protocol.connection_made(cast("asyncio.Transport", wire))
    return protocol, wire


# The parser.


async def test_a_message_is_paired_with_its_body(parser: HttpRequestParser) -> None:
    messages, upgraded, tail = parser.feed_data(POST + b"ab")
    ((message, payload),) = messages
    assert isinstance(message, RawRequestMessage)
    assert isinstance(payload, StreamReader)
    assert (message.path, message.upgrade, upgraded, tail) == ("/b", False, False, b"")
    assert message.raw_headers == ((b"Host", b"x"), (b"Content-Length", b"4"))
    assert (payload.is_eof(), payload.total_bytes) == (False, 2)
    assert list(parser.feed_data(b"cd")[0]) == []
    assert (payload.is_eof(), payload.total_bytes, payload.read_nowait()) == (True, 4, b"abcd")
    ((_, nothing),) = parser.feed_data(GET)[0]
    assert nothing is EMPTY_PAYLOAD
    assert (nothing.is_eof(), nothing.read_nowait()) == (True, b"")


@pytest.mark.parametrize("body", [b"", b"ab"])
@pytest.mark.parametrize("offer", OFFERS)
async def test_an_offer_is_no_upgrade_yet(parser: HttpRequestParser, offer: str, body: bytes) -> None:
    length = b"Content-Length: %d\r\n" % len(body)
    messages, upgraded, tail = parser.feed_data(
        b"POST /u HTTP/1.1\r\n" + HOST + OFFERS[offer] + length + b"\r\n" + body
    )
    ((message, payload),) = messages
    assert (message.upgrade, upgraded, tail) == (True, False, b"")
    assert (payload.is_eof(), payload.read_nowait()) == (True, body)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"nonsense\r\n\r\n", HttpProcessingError, ""),
        (b"GET /a HTTP/1.1\r\n\r\n", HttpProcessingError, "Missing 'Host' header"),
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 300), LineTooLong, ""),
        (b"GET /a HTTP/1.1\r\nA: %b\r\n\r\n" % (b"x" * 300), LineTooLong, ""),
        (b"GET /a HTTP/1.1\r\n" + b"A: b\r\n" * 21 + b"\r\n", HttpProcessingError, "Too many headers"),
        (CHUNKED + b"zz\r\n", HttpProcessingError, ""),
        (GET[:20] + b"\0", HttpProcessingError, ""),
    ],
)
async def test_what_is_no_http_is_an_error_with_a_message(
    parser: HttpRequestParser, data: bytes, kind: type[HttpProcessingError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        parser.feed_data(data)
    assert caught.value.message.startswith(message)


# The stream of a body.


async def test_a_stream_s_exception_reaches_its_reader() -> None:
    stream = StreamReader(Protocol(nobody), 1024, loop=asyncio.get_running_loop())
    stream.set_exception(KeyError("ours"))
    with pytest.raises(KeyError):
        await stream.readany()
    with pytest.raises(KeyError):
        stream.read_nowait()
    EMPTY_PAYLOAD.set_exception(KeyError("nobody's"))
    assert EMPTY_PAYLOAD.read_nowait() == b""


async def test_twice_the_limit_of_a_body_pauses_the_reading_until_it_is_read() -> None:
    bodies: list[StreamReader] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        bodies.append(request.content)
        await asyncio.Event().wait()
        return Bare()

    protocol, wire = connect(handle)
    protocol.data_received(POST.replace(b"4", b"9999") + b"x" * 2048)
    await until(lambda: bodies)
    assert not wire.paused
    protocol.data_received(b"x")
    assert wire.paused
    protocol.fed.clear()
    assert bodies[0].read_nowait() == b"x" * 2049
    assert wire.paused is False
    assert set(protocol.fed) == {b""}, "the parser goes on by way of the protocol"
    wire.abort()
    await turns(3)


# The protocol.


def names(method: Callable[..., object]) -> list[str]:
    return list(inspect.signature(method).parameters)


def test_the_methods_that_are_overridden_have_the_same_arguments() -> None:
    handler = web.RequestHandler
    assert names(handler.finish_response) == ["self", "request", "resp", "start_time"]
    assert names(handler.handle_error) == ["self", "request", "status", "exc", "message"]
    assert names(handler.data_received) == ["self", "data"]
    assert names(handler.connection_lost) == ["self", "exc"]
    for method in (handler.eof_received, handler.pause_writing, handler.resume_writing, handler.close):
        assert names(method) == ["self"]
    assert names(web.StreamResponse.prepare) == ["self", "request"]
    assert names(web.StreamResponse.write_eof) == ["self", "data"]
    assert isinstance(inspect.getattr_static(handler, "writing_paused"), property)
    assert isinstance(inspect.getattr_static(web.StreamResponse, "keep_alive"), property)


async def test_messages_wait_in_pairs_until_the_handler_is_free() -> None:
    seen: list[str] = []
    goes = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.raw_path)
        await goes.wait()
        return Bare()

    protocol, wire = connect(handle)
    await turns(2)
    assert protocol._waiter is not None
    protocol.data_received(GET)
    ((message, payload),) = protocol._messages
    assert (message.path, payload) == ("/a", EMPTY_PAYLOAD)  # type: ignore[union-attr]  # no error
    await until(lambda: seen)
    assert not protocol._messages
    protocol.data_received(GET.replace(b"/a", b"/b"))
    await turns(3)
    assert (len(protocol._messages), seen) == (1, ["/a"])
    goes.set()
    await until(lambda: len(seen) == 2)
    assert not wire.closing


async def test_malformed_http_waits_as_an_error_and_is_handled_as_one() -> None:
    protocol, wire = connect(nobody)
    await turns(2)
    protocol.data_received(b"nonsense\r\n\r\n")
    ((error, payload),) = protocol._messages
    assert not isinstance(error, RawRequestMessage)
    assert (payload, error.message != "") == (EMPTY_PAYLOAD, True)
    await until(lambda: wire.closing)
    ((status, cause, message),) = protocol.errors
    assert (status, isinstance(cause, HttpProcessingError), message) == (400, True, error.message)


async def test_a_fault_of_the_handler_is_an_error_too_and_a_connection_error_ends_it() -> None:
    async def fail(_request: web.BaseRequest) -> web.StreamResponse:
        raise KeyError("ours")

    protocol, wire = connect(fail)
    protocol.data_received(GET)
    await until(lambda: wire.closing)
    assert [(status, type(cause)) for status, cause, _ in protocol.errors] == [(500, KeyError)]

    async def cut(_request: web.BaseRequest) -> web.StreamResponse:
        return Bare(breaks=True)

    protocol, wire = connect(cut)
    protocol.data_received(GET)
    await until(lambda: wire.closing)
    assert ([reset for _, reset in protocol.finished], protocol.errors) == ([True], [])


@pytest.mark.parametrize("keeps", [True, False])
async def test_aiohttp_calls_prepare_write_eof_and_keep_alive(*, keeps: bool) -> None:
    response = Bare(keeps=keeps)

    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        return response

    protocol, wire = connect(handle)
    protocol.data_received(GET)
    await until(lambda: protocol.finished)
    await turns(3)
    assert response.calls == ["prepare", "write_eof", "keep_alive"]
    assert (protocol.finished, wire.closing, bytes(wire.written)) == ([(response, False)], not keeps, b"")


async def test_an_http_exception_is_a_response_to_be_finished() -> None:
    async def refuse(_request: web.BaseRequest) -> web.StreamResponse:
        raise web.HTTPNotFound

    protocol, _ = connect(refuse)
    protocol.data_received(GET)
    await until(lambda: protocol.finished)
    assert isinstance(protocol.finished[0][0], web.HTTPNotFound)


async def test_a_disconnect_cancels_the_handler_and_stops_parsing() -> None:
    ends: list[str] = []

    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return Bare()

    protocol, wire = connect(handle)
    protocol.data_received(GET)
    await turns(4)
    wire.abort()
    await until(lambda: ends)
    assert (protocol.transport, protocol._parser) == (None, None)
    protocol.data_received(GET)
    assert not protocol._messages


async def test_closing_ends_the_connection_behind_its_response_and_drops_what_still_comes() -> None:
    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        protocol.close()
        protocol.data_received(GET)
        await turns(2)
        assert not wire.closing
        return Bare()

    protocol, wire = connect(handle)
    protocol.data_received(GET)
    await until(lambda: wire.closing)
    assert (len(protocol.finished), len(protocol._messages), wire.aborted) == (1, 0, False)


async def test_closing_by_force_is_at_once() -> None:
    protocol, wire = connect(nobody)
    await turns(2)
    protocol.force_close()
    assert (wire.closing, protocol.transport) == (True, None)


async def test_a_drain_waits_while_writing_is_paused() -> None:
    drained: list[bool] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is wire  # type: ignore[comparison-overlap]  # a transport in all but its class
        assert request.protocol is protocol
        await request.writer.drain()
        drained.append(True)
        return Bare()

    protocol, wire = connect(handle)
    protocol.pause_writing()
    assert protocol.writing_paused
    protocol.data_received(GET)
    await turns(5)
    assert not drained
    protocol.resume_writing()
    await until(lambda: drained)
    assert not protocol.writing_paused
