"""A client's connection, read by read: one request at a time, in order, none lost, and each bound of it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.adapters.http.bounded_request_handler import MAX_FRAMING_BYTES, MAX_HEADERS, READ_BYTES
from services.gateway.adapters.http.client_connection import MIN_READ_BYTES, ClientConnection
from services.gateway.adapters.http.client_response import MAX_REFUSALS, SKIPPED_BYTES, ClientResponse
from services.gateway.core import errors
from tests.unit.gateway.front import Front
from tests.unit.gateway.wire import Fault, Response, Wire, post, responses, turns, until

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4\r\n"
MOST_HEAD = 32 * 1024


@dataclass
class Server:
    """Answers each request with its number and the size of its body."""

    front: Front = field(default_factory=Front)
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    at_once: int = 0
    goes: asyncio.Event = field(default_factory=asyncio.Event)
    turns_each: int = 0

    async def handle(self, request: web.BaseRequest) -> ClientResponse:
        self.at_once += 1
        assert self.at_once == 1
        response = self.front.open_response(request)
        if "Expect" in request.headers:
            response.send_continue()
        body = await request.content.read()
        self.seen.append((request.method, request.raw_path, body))
        await self.goes.wait()
        await turns(self.turns_each)
        self.at_once -= 1
        response.respond(200, b"", b"%b %d" % (request.raw_path.encode(), len(body)))
        return response

    def connect(self, handle: Callable[[web.BaseRequest], object] | None = None) -> Wire:
        server = web.Server(handle or self.handle, handler_cancellation=True)  # type: ignore[arg-type]  # one that may break
        return Wire().connect(ClientConnection(server, self.front.connections))


@dataclass(frozen=True)
class Sent:
    method: str
    path: str
    body: bytes
    data: bytes


def _lines(*lines: bytes) -> bytes:
    return b"".join(lines) + b"\r\n"


def sent(kind: str, number: int, body: bytes, pieces: list[int]) -> Sent:
    path = f"/{number}"
    host = b"Host: x\r\n"
    method = {"head": "HEAD", "get": "GET", "h2c": "GET", "websocket": "GET"}.get(kind, "POST")
    first = f"{method} {path} HTTP/1.1\r\n".encode()
    length = b"Content-Length: %d\r\n" % len(body)
    if method != "POST":
        offer = {"h2c": H2C, "websocket": WEBSOCKET}.get(kind, b"")
        return Sent(method, path, b"", _lines(first, host, offer))
    if kind in {"chunked", "trailers"}:
        cuts = sorted({min(piece, len(body)) for piece in pieces} | {0, len(body)})
        chunks = [body[start:end] for start, end in pairwise(cuts)]
        framed = b"".join(b"%x;e=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        trailers = b"X-Trailer: a\r\nExpect: 100-continue\r\n" if kind == "trailers" else b""
        chunked = _lines(first, host, b"Transfer-Encoding: chunked\r\n") + framed + b"0\r\n" + trailers + b"\r\n"
        return Sent(method, path, body, chunked)
    offer = {"h2c body": H2C, "expect": b"Expect: 100-continue\r\n"}.get(kind, b"")
    return Sent(method, path, body, _lines(first, host, offer, length) + body)


KINDS = ("get", "head", "length", "chunked", "trailers", "h2c", "h2c body", "websocket", "expect")
REQUESTS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.binary(max_size=40), st.lists(st.integers(1, 40), max_size=3)),
    min_size=1,
    max_size=8,
)


async def _pipelined(requests: list[Sent], reads: list[bytes], turns_each: int) -> None:
    server = Server(turns_each=turns_each)
    server.goes.set()
    wire = server.connect()
    await wire.send_slowly(*reads)
    await until(lambda: len(server.seen) == len(requests) or wire.closing)
    await turns(10 + turns_each)
    assert server.seen == [(request.method, request.path, request.body) for request in requests]
    answered = responses(bytes(wire.written), [request.method for request in requests])
    assert [response.status for response in answered] == [200] * len(requests)
    bodies = [b"" if r.method == "HEAD" else b"%b %d" % (r.path.encode(), len(r.body)) for r in requests]
    assert [response.body for response in answered] == bodies
    assert not wire.paused
    assert server.front.memory.used == 0
    assert wire.protocol.is_idle
    wire.abort()
    await turns(3)


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.lists(st.integers(1, 600), max_size=10), st.integers(0, 3))
def test_requests_survive_any_split_into_reads(
    kinds: list[tuple[str, bytes, list[int]]], sizes: list[int], turns_each: int
) -> None:
    requests = [sent(kind, number, body, pieces) for number, (kind, body, pieces) in enumerate(kinds)]
    data, reads = b"".join(request.data for request in requests), []
    for size in sizes:
        reads.append(data[:size])
        data = data[size:]
    asyncio.run(_pipelined(requests, [read for read in (*reads, data) if read], turns_each))


async def test_a_byte_at_a_time_is_read_as_well() -> None:
    requests = [sent(kind, number, b"abc" * 20, [7, 30]) for number, kind in enumerate(KINDS)]
    data = b"".join(request.data for request in requests)
    await _pipelined(requests, [data[at : at + 1] for at in range(len(data))], 0)


async def test_a_trailer_is_no_header_of_the_next_request() -> None:
    """A proxy sends the requests of several clients on one connection."""
    seen: list[list[str]] = []
    server = Server()

    async def handle(request: web.BaseRequest) -> ClientResponse:
        seen.append(list(request.headers))
        return await server.handle(request)

    server.goes.set()
    data = sent("trailers", 1, b"abc", [1]).data + sent("length", 2, b"abc", []).data
    for cut in range(len(data)):
        seen.clear()
        wire = server.connect(handle)
        await wire.send_slowly(*filter(None, (data[:cut], data[cut:])))
        await until(lambda: len(seen) == 2)
        assert seen == [["Host", "Transfer-Encoding"], ["Host", "Content-Length"]]
        wire.abort()
        await turns()


@pytest.mark.parametrize("more", range(-1, 3))
async def test_a_pause_between_two_chunks_is_no_end(more: int) -> None:
    """aiohttp pauses after so many small chunks."""
    server = Server()
    server.goes.set()
    wire = server.connect()
    wire.send(CHUNKED + b"\r\n")
    await turns()
    number = READ_BYTES // 16 + more
    for data in (b"1\r\nx\r\n" * number, b"1\r\nx\r\n" * number + b"0\r\n\r\n"):
        wire.send(data)
        await turns()
    await until(lambda: server.seen)
    assert [body for _, _, body in server.seen] == [b"x" * 2 * number]


async def test_pipelined_data_is_not_parsed_and_bounded_during_a_request() -> None:
    server = Server()
    wire = server.connect()
    wire.send(sent("length", 1, b"abc", []).data)
    await turns()
    behind = sent("get", 2, b"", []).data + sent("length", 3, b"x" * 2 * READ_BYTES, []).data
    read = 0
    while not wire.paused:
        assert read < READ_BYTES
        wire.send(behind[read : read + 1000])
        read += 1000
    assert server.front.memory.used == read
    await turns()
    assert (len(server.seen), len(wire.protocol._messages)) == (1, 0)
    server.goes.set()
    await wire.send_slowly(behind[read:])
    await until(lambda: len(server.seen) == 3)
    await turns()
    assert (wire.paused, server.front.memory.used) == (False, 0)
    assert [response.body for response in wire.responses] == [b"/1 3", b"/2 0", b"/3 %d" % (2 * READ_BYTES)]


async def test_reading_resumes_once_the_pipelined_data_is_parsed() -> None:
    server = Server()
    wire = server.connect()
    wire.send(GET)
    await turns()
    ahead = 0
    while not wire.paused:
        wire.send(head(MOST_HEAD - 1000))
        ahead += 1
    server.goes.set()
    await until(lambda: len(server.seen) == 1 + ahead)
    await turns()
    assert (ahead, wire.paused, len(wire.responses)) == (3, False, 4)


async def test_nothing_can_be_added_to_a_response_that_has_ended() -> None:
    front = Front()

    async def handle(request: web.BaseRequest) -> ClientResponse:
        response = front.open_response(request)
        response.respond(200, b"", b"all")
        response.fail(errors.internal_error())
        return response

    wire = Server(front).connect(handle)
    wire.send(GET)
    await until(lambda: wire.written)
    await turns()
    assert [response.body for response in wire.responses] == [b"all"]


async def test_pipelined_data_of_a_client_that_left_is_dropped() -> None:
    server = Server()
    wire = server.connect()
    wire.send(GET)
    await turns()
    wire.send(GET * 3)
    wire.abort()
    await turns()
    assert (server.front.memory.used, len(server.seen)) == (0, 1)


async def test_those_that_send_ahead_without_a_key_share_one_bound() -> None:
    servers = [Server(front=front) for front in [Front()] * 3]
    wires, memory = [server.connect() for server in servers], servers[0].front.memory
    for wire in wires:
        wire.send(GET)
    memory.max_bytes_per_owner = 3 * len(GET) - 1
    await turns()
    for wire in wires:
        wire.send(GET * 3)
    assert [wire.aborted for wire in wires] == [False, True, True]
    await turns()
    wires[0].abort()
    await turns()
    assert memory.used == 0


async def test_the_next_request_waits_until_its_client_has_read() -> None:
    server = Server()
    server.goes.set()
    wire = server.connect()
    wire.protocol.pause_writing()
    wire.send(GET + GET)
    await turns()
    assert len(server.seen) == 1
    wire.protocol.resume_writing()
    await turns()
    assert len(server.seen) == 2


# What is no HTTP, or too much of it.


def refusal(response: Response) -> tuple[int, str]:
    assert b"x-request-id: " in response.head
    assert b"connection: close" in response.head
    return response.status, json.loads(response.body)["error"]["code"]


MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    b"GET /health\r\n\r\n",
    b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
    b"GET /health HTTP/1.1\nHost: x\n\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    CHUNKED.replace(b"chunked", b"xchunked") + b"\r\n0\r\n\r\n",
    post(b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"") + b"zz\r\n",
]


@pytest.mark.parametrize("data", MALFORMED)
async def test_what_is_no_http_is_refused_in_openai_s_form_and_ends_the_connection(front: Front, data: bytes) -> None:
    wires = [front.connect() for _ in range(3)]
    wires[0].send(data)
    wires[1].send(GET + data)
    for at in range(len(data)):
        wires[2].send(data[at : at + 1])
        await turns(2)
    for wire in wires:
        await until(lambda: wire.has_eof)  # noqa: B023 - it is called at once
    assert [refusal(wire.responses[-1]) for wire in wires] == [(400, "invalid_request")] * 3
    assert [len(wire.responses) for wire in wires] == [1, 2, 1]
    wires[0].send(GET)
    await turns()
    assert (len(wires[0].responses), front.memory.used) == (1, 0)
    for wire in wires:
        wire.abort()
    await turns()
    front.check(lines=4)


def head(size: int, lines: int = 1) -> bytes:
    """A head with so many bytes in so many lines more."""
    begin = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    each = (size - len(begin) - 2) // lines
    return begin + b"".join(b"a%04d: %b\r\n" % (n, b"x" * (each - 9)) for n in range(lines)) + b"\r\n"


@pytest.mark.parametrize("lines", [1, 100])
@pytest.mark.parametrize("cut", [10**6, 4096])
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_has_a_bound_in_all(front: Front, lines: int, cut: int, before: bytes) -> None:
    for size, status in ((MOST_HEAD - 4000, 200), (MOST_HEAD + 4000, 431), (3 * MOST_HEAD, 431)):
        wire, data = front.connect(), before + head(size, lines)
        await wire.send_slowly(*(data[at : at + cut] for at in range(0, len(data), cut)))
        await until(lambda: len(wire.responses) == (2 if before else 1))  # noqa: B023 - it is called at once
        assert wire.responses[-1].status == status
        if status == 431:
            assert refusal(wire.responses[-1]) == (431, "request_too_large")


@pytest.mark.parametrize(("lines", "status"), [(MAX_HEADERS - 1, 200), (MAX_HEADERS, 431), (3 * MAX_HEADERS, 431)])
async def test_a_head_has_a_bound_in_lines(front: Front, lines: int, status: int) -> None:
    wire = front.connect()
    await wire.send_slowly(GET[:-2], *[b"a:b\r\n"] * lines, b"\r\n")
    await until(lambda: wire.written)
    assert wire.responses[0].status == status


async def test_chunks_that_are_framing_more_than_content_are_refused(front: Front) -> None:
    wire = front.connect()
    wire.send(post(b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b""))
    sent_bytes = 0
    while not wire.written and sent_bytes < 2 * MAX_FRAMING_BYTES:
        data = b"1;%b\r\nx\r\n" % (b"e" * 8000)
        sent_bytes += len(data)
        await wire.send_slowly(data)
        await turns(3)
    assert refusal(wire.responses[0]) == (400, "invalid_request")
    assert sent_bytes > MAX_FRAMING_BYTES
    wire.abort()
    await turns()
    front.check()


async def test_chunks_of_a_byte_are_not(front: Front) -> None:
    wire = front.connect()
    wire.send(post(b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b""))
    for _ in range(2):
        await wire.send_slowly(*[b"1\r\n \r\n" * 5000] * 10)
    await wire.send_slowly(b"d\r\n" + b'{"model":"m"}' + b"\r\n0\r\n\r\n")
    await until(lambda: front.calls or wire.written)
    assert front.calls


@given(st.integers(1, len(post()) - 1))
def test_a_request_that_stops_at_any_point_gets_408(size: int) -> None:
    async def stopped() -> None:
        front = await Front().start()
        wire = front.connect()
        wire.send(post()[:size])
        await turns(4)
        wire.protocol.expire()
        await until(lambda: wire.written)
        assert refusal(wire.responses[0]) == (408, "request_timeout")
        await front.stop()
        front.check()

    asyncio.run(stopped())


# A client that hardly reads, that is refused again and again, that goes on sending.


@pytest.mark.parametrize(("taken", "stays"), [(MIN_READ_BYTES, True), (MIN_READ_BYTES - 1, False), (0, False)])
async def test_a_trickling_reader_is_cut(*, taken: int, stays: bool) -> None:
    server = Server()
    wire = server.connect()
    wire.send(GET)
    await turns()
    wire.unsent = 10 * MIN_READ_BYTES
    wire.protocol.pause_writing()
    for _ in range(3):
        wire.unsent -= taken
        for _ in range(int(server.front.settings.write_timeout)):
            server.front.monotonic += 1.0
            server.front.connections.tick()
    await turns()
    assert wire.aborted != stays


async def test_refusals_in_a_row_end_the_connection(front: Front) -> None:
    wire = front.connect()
    bad = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    await wire.send_slowly(*[bad] * (MAX_REFUSALS - 1), GET, *[bad] * (MAX_REFUSALS + 5))
    await until(lambda: wire.has_eof)
    statuses = [response.status for response in wire.responses]
    assert statuses == [404] * (MAX_REFUSALS - 1) + [200] + [404] * MAX_REFUSALS
    assert b"connection: close" in wire.responses[-1].head


@pytest.mark.parametrize(("size", "keeps"), [(SKIPPED_BYTES, True), (SKIPPED_BYTES + 1, False)])
async def test_the_rest_of_a_refused_body_is_skipped_or_the_connection_ends(
    front: Front, size: int, *, keeps: bool
) -> None:
    wire = front.connect()
    request = post(b"x" * size).replace(b"Bearer", b"Basic")
    wire.send(request[:-size])
    await until(lambda: wire.written)
    assert wire.responses[0].status == 401
    await wire.send_slowly(*(request[-size:][at : at + 8192] for at in range(0, size, 8192)), GET)
    await turns()
    assert ([response.status for response in wire.responses], wire.has_eof) == (
        ([401, 200], False) if keeps else ([401], True)
    )


async def test_a_handler_s_fault_cuts_its_connection_alone() -> None:
    server = Server()

    async def fail(_request: web.BaseRequest) -> ClientResponse:
        raise Fault("handler")

    wire, other = server.connect(fail), server.connect()
    wire.send(GET)
    await until(lambda: wire.closing)
    assert (wire.aborted, bytes(wire.written), other.closing) == (True, b"", False)


@pytest.mark.parametrize(("data", "count"), [(GET, 1), (GET * 2, 2), (b"nonsense\r\n\r\n", 1), (post(), 0)])
async def test_a_half_closed_client_gets_an_immediate_response(front: Front, data: bytes, count: int) -> None:
    wire = front.connect()
    wire.send(data)
    assert wire.protocol.eof_received(), "its transport stays open"
    await until(lambda: wire.closing)
    assert len(wire.responses) == count
