"""HTTP as it should not be: a clear 4xx or a closed connection, never an error of ours, and nothing gets through."""

import json
from contextlib import suppress

import pytest

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import (
    BODY,
    CHUNKED,
    HONEST,
    MEGABYTE,
    PATH,
    STREAM,
    Opened,
    answers,
    front_before,
    goes_on,
    own_error,
    peak_memory,
    post,
    send_request,
    still_serves,
    whole,
)
from tests.kit.raw_http import LAST_CHUNK, chunk, connected, head
from tests.kit.scripted_engine import ScriptedEngine

CLOSED = "closed"
"""Without an answer."""


async def outcome(front: Front, *sent: bytes) -> list[str]:
    """What one connection comes to: each answer, and how it ended, which has to be in order."""
    async with connected(front.url) as connection:
        with suppress(ConnectionError):  # the gateway may have heard enough
            await connection.send(*sent)
        try:
            results = await answers(connection)
        except TimeoutError:
            return ["it hangs"]
    for answer in results[:-1]:
        assert answer.headers.get("connection") != "close", "answers after the last"
    reported = [own_error(answer) if answer.status >= 400 else str(answer.status) for answer in results]
    if results and results[-1].headers.get("connection") != "close":
        reported.append("closed without a word about it")
    return reported or [CLOSED]


BAD_HEADS = {
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "nulls": bytes(200),
    "words": b"let me in\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "another version": b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n",
    "another protocol": b"GET /v1/models SMTP/1.1\r\nHost: x\r\n\r\n",
    "a method of lower case": b"post /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "a null in the target": b"GET /v1/mo\x00dels HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank in the target": b"GET /v1/mo dels HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab in the target": b"GET /v1/mo\tdels HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header without a colon": b"GET /v1/models HTTP/1.1\r\nHost\r\n\r\n",
    "a header without a name": b"GET /v1/models HTTP/1.1\r\n: x\r\n\r\n",
    "a blank in a header's name": b"GET /v1/models HTTP/1.1\r\nHo st: x\r\n\r\n",
    "a blank before the colon": b"GET /v1/models HTTP/1.1\r\nHost : x\r\n\r\n",
    "a folded header": b"GET /v1/models HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
    "a fold at once": b"GET /v1/models HTTP/1.1\r\n Host: x\r\n\r\n",
    "a null in a header": b"GET /v1/models HTTP/1.1\r\nHost: x\x00y\r\n\r\n",
    "a bare CR in a header": b"GET /v1/models HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "bare LFs": b"GET /v1/models HTTP/1.1\nHost: x\n\n",
    "a bare LF": b"GET /v1/models HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
}

BAD_LENGTHS = {
    "two lengths": ("Content-Length: 5", HONEST),
    "the same length twice": (HONEST, HONEST),
    "a list of lengths": (f"{HONEST}, {len(BODY)}",),
    "a length and chunks": (HONEST, CHUNKED),
    "chunks and a length": (CHUNKED, HONEST),
    "a negative length": ("Content-Length: -1",),
    "a signed length": (f"Content-Length: +{len(BODY)}",),
    "a hexadecimal length": ("Content-Length: 0x20",),
    "a length with an exponent": ("Content-Length: 1e3",),
    "a length in two words": ("Content-Length: 5 5",),
    "an empty length": ("Content-Length:",),
    "a length beyond all numbers": ("Content-Length: 99999999999999999999999",),
    "compressed chunks": ("Transfer-Encoding: gzip, chunked",),
    "chunks that are not last": ("Transfer-Encoding: chunked, gzip",),
    "chunks twice": ("Transfer-Encoding: chunked, chunked",),
    "chunks in two headers": (CHUNKED, CHUNKED),
    "compression in one header, chunks in another": ("Transfer-Encoding: gzip", CHUNKED),
    "something like chunks": ("Transfer-Encoding: xchunked",),
    "chunks in quotes": ('Transfer-Encoding: "chunked"',),
    "no encoding by name": ("Transfer-Encoding: identity",),
    "no encoding by name, and a length": ("Transfer-Encoding: identity", HONEST),
    "chunks after a vertical tab": ("Transfer-Encoding: \x0bchunked",),
    "an empty encoding": ("Transfer-Encoding:", HONEST),
}

BAD_CHUNKS = {
    "no number": b"xyz\r\n" + BODY,
    "a negative size": b"-1\r\n" + BODY,
    "a prefixed size": b"0x5\r\n" + BODY,
    "no size": b"\r\n" + BODY,
    "a size beyond all numbers": b"fffffffffffffffff\r\n" + BODY,
    "more than the size": b"5\r\n" + BODY + b"\r\n",
    "less than the size": chunk(BODY)[:-3] + b"\r\n0\r\n\r\n" + b"G" * 64,
    "a bare LF after the size": b"%x\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "a bare LF after the data": b"%x\r\n" % len(BODY) + BODY + b"\n0\r\n\r\n",
    "a blank before the size": b" " + chunk(BODY) + LAST_CHUNK,
    "a blank after the size": b"%x \r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "a null in an extension": b"%x;a=\x00\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "a bare LF in an extension": b"%x;a\nb\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "a trailer without a colon": chunk(BODY) + b"0\r\nnonsense\r\n\r\n",
    "a length in the trailers": chunk(BODY) + b"0\r\nContent-Length: 3\r\n\r\n",
}


async def faults_of(front: Front, cases: dict[str, bytes]) -> dict[str, list[str]]:
    """The cases that come to something else than a 400 and the end, or the end alone."""
    came = {name: await outcome(front, sent) for name, sent in cases.items()}
    await still_serves(front)
    return {name: reported for name, reported in came.items() if reported not in (["400 invalid_request"], [CLOSED])}


async def test_what_is_no_http_is_refused_and_the_connection_ends(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    assert await faults_of(front, BAD_HEADS) == {}


async def test_a_body_of_doubtful_length_is_refused_and_none_is_smuggled(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    """Behind each doubtful body stands a good request. Whoever reads another length would serve it."""
    front = await front_before(opened, scripted_engine.base_url)
    smuggled = whole(front, BODY.replace(b"honest", b"smuggled"))
    cases = {name: post(front, *lengths) + BODY + smuggled for name, lengths in BAD_LENGTHS.items()}
    cases |= {f"{name}, in chunks": post(front, *BAD_LENGTHS[name]) + b"0\r\n\r\n" + smuggled for name in BAD_LENGTHS}
    cases |= {name: post(front, CHUNKED) + chunks + smuggled for name, chunks in BAD_CHUNKS.items()}
    assert await faults_of(front, cases) == {}
    assert [seen.raw for seen in scripted_engine.requests if b"smuggled" in seen.raw] == []
    assert len(scripted_engine.requests) == 1, "the honest one after them"


async def test_only_what_the_gateway_means_reaches_an_engine(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    """A good body may hold what looks like a request; it is one body, and the engine sees it as one."""
    front = await front_before(opened, scripted_engine.base_url)
    content = whole(front, BODY.replace(b"honest", b"smuggled")).decode()
    body = json.dumps(json.loads(BODY) | {"messages": [{"role": "user", "content": content}]}).encode()
    names = ("Connection: x-request-id, te", "X-Request-Id: theirs", "TE: trailers", "Proxy-Authorization: x")
    async with connected(front.url) as connection:
        await connection.send(whole(front, body, *names))
        answer = await connection.answer()
        assert answer is not None
        assert answer.status == 200
        await goes_on(connection, front)
    seen, _ = scripted_engine.requests
    assert seen.body["messages"][0]["content"] == content
    assert seen.headers["x-request-id"] == answer.headers["x-request-id"]
    assert not {"authorization", "te", "proxy-authorization"} & set(seen.headers), "what is for the gateway alone"


HEAD = b"GET /v1/models HTTP/1.1\r\n"
ENDLESS_HEADS = {
    "a long header": HEAD + b"X: " + b"x" * MEGABYTE,
    "many headers": HEAD + b"X: y\r\n" * (MEGABYTE // 6),
    "a long name": HEAD + b"x" * MEGABYTE,
    "a long target": b"GET /v1/models?" + b"x" * MEGABYTE,
}
ENDLESS_CHUNKS = {
    "a chunk's size": b"0" * MEGABYTE,
    "a chunk's extension": b"5;" + b"x" * MEGABYTE,
    "a trailer": chunk(BODY) + b"0\r\nX: " + b"y" * MEGABYTE,
    "trailers": chunk(BODY) + b"0\r\n" + b"X: y\r\n" * MEGABYTE,
}


async def test_what_has_no_end_is_refused(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    await still_serves(front)
    before = peak_memory(front)
    reported = {name: await outcome(front, sent) for name, sent in ENDLESS_HEADS.items()}
    assert reported == {name: ["431 request_too_large"] for name in ENDLESS_HEADS}
    reported = {name: await outcome(front, post(front, CHUNKED), sent) for name, sent in ENDLESS_CHUNKS.items()}
    assert [name for name, came in reported.items() if came not in (["400 invalid_request"], [CLOSED])] == [], reported
    await still_serves(front)
    assert peak_memory(front) - before < 10 * MEGABYTE


async def test_a_million_chunks_of_one_byte_are_one_body(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    await still_serves(front)
    before = peak_memory(front)
    body = BODY.replace(b"honest", b"x" * 1_000_000)
    async with connected(front.url) as connection:
        await connection.send(post(front, CHUNKED), b"".join(b"1\r\n%c\r\n" % byte for byte in body), LAST_CHUNK)
        answer = await connection.answer(seconds=60)
        assert answer is not None
        assert answer.status == 200
        await goes_on(connection, front)
    assert scripted_engine.requests[1].body["messages"] == json.loads(body)["messages"]
    assert peak_memory(front) - before < 100 * MEGABYTE


async def test_a_body_beyond_its_bound_is_refused_as_soon_as_that_is_known(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url, "max_body_bytes = 100000")
    await still_serves(front)
    before = peak_memory(front)
    announced = post(front, "Content-Length: 100001")
    assert await outcome(front, announced) == ["413 request_too_large"]
    assert await outcome(front, announced, b"x" * 100001) == ["413 request_too_large"]
    assert await outcome(front, post(front, CHUNKED), chunk(b" " * 100001)) == ["413 request_too_large"]
    assert await outcome(front, post(front, CHUNKED), b"%x\r\n" % (1 << 60), b"x" * 100001) == ["413 request_too_large"]
    assert await outcome(front, post(front, CHUNKED), chunk(b" ") * MEGABYTE) == ["413 request_too_large"]
    assert (await send_request(front, whole(front, BODY.ljust(100_000)))).status == 200
    await still_serves(front)
    assert peak_memory(front) - before < 10 * MEGABYTE


BAD_REQUESTS = {
    "deep lists": (b"[" * 100_000, "400 invalid_request"),
    "deep JSON": (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "400 invalid_json"),
    "deep objects": (b'{"model":"m","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "400 invalid_json"),
    "invalid UTF-8": (BODY.replace(b"honest", b"\xff\xfe"), "400 invalid_json"),
    "an overlong UTF-8": (BODY.replace(b"honest", b"\xc0\xaf"), "400 invalid_json"),
    "half a surrogate": (b'{"model":"\\ud800"}', "400 invalid_json"),
    "UTF-16": (BODY.decode().encode("utf-16"), "400 invalid_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + BODY, "400 invalid_json"),
    "nothing": (b"", "400 invalid_json"),
    "nulls": (bytes(1000), "400 invalid_json"),
    "not a number": (b'{"model":"m","x":NaN}', "400 invalid_json"),
    "half a body": (BODY[:-1], "400 invalid_json"),
    "two bodies": (BODY + BODY, "400 invalid_json"),
    "a list": (b"[1]", "400 invalid_request"),
    "no model": (b"{}", "400 invalid_request"),
    "two models": (b'{"model":"a","model":"b"}', "400 invalid_request"),
    "an endless model": (b'{"model":"' + b"m" * 100_000 + b'"}', "404 model_not_found"),
    "a model of line ends": (b'{"model":"a\\r\\nx-evil: 1\\r\\n\\r\\n"}', "404 model_not_found"),
}


async def test_a_wrong_body_costs_its_request_and_not_the_connection(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    async with connected(front.url) as connection:
        for name, (body, expected) in BAD_REQUESTS.items():
            await connection.send(whole(front, body))
            answer = await connection.answer()
            assert answer is not None, name
            assert (name, own_error(answer)) == (name, expected)
            await goes_on(connection, front)
    assert len(scripted_engine.requests) == len(BAD_REQUESTS), "the honest ones between them"


WRONG_HEADERS = {
    (HONEST, "Content-Encoding: gzip"): "415 unsupported_media_type",
    (HONEST, "Content-Type: text/plain"): "415 unsupported_media_type",
    (HONEST, "Content-Type: multipart/form-data; boundary=x"): "415 unsupported_media_type",
    (HONEST, "Content-Type: ;;;=\xff"): "415 unsupported_media_type",
    (HONEST, "X-Wake-Timeout: -1"): "400 invalid_request",
    (HONEST, "X-Wake-Timeout: nan"): "400 invalid_request",
    (HONEST, "X-Wake-Timeout: 1e999"): "400 invalid_request",
    (HONEST, "X-Wake-Timeout: \xff"): "400 invalid_request",
}
ODD_HEADERS = (
    (HONEST,),
    (HONEST, "Content-Type: application/json"),
    (HONEST, "content-type: APPLICATION/JSON; charset=UTF-8"),
    (HONEST, "Content-Encoding: identity"),
    (HONEST, "X-Empty:", "X-Bytes: \xe9\xff", "Cookie: " + "c" * 8000),
    (HONEST, "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    (HONEST, "Upgrade: websocket", "Connection: Upgrade"),
)


async def test_a_wrong_header_is_refused(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    reported = {
        headers: own_error(await send_request(front, post(front, *headers) + BODY)) for headers in WRONG_HEADERS
    }
    assert reported == WRONG_HEADERS
    assert own_error(await send_request(front, post(front))) == "411 length_required"
    assert scripted_engine.requests == []
    await still_serves(front)


async def test_unusual_but_valid_requests_are_served(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    odd = {" ".join(headers): post(front, *headers) + BODY for headers in ODD_HEADERS}
    odd["a query"] = whole(front, target=f"{PATH}?api-version=1&x=%00")
    odd["an extension"] = post(front, CHUNKED) + b"%x;name=value\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
    odd["a trailer"] = post(front, CHUNKED) + chunk(BODY) + b"0\r\nX-Checksum: 1\r\n\r\n"
    odd["zeros"] = post(front, CHUNKED) + b"0000%X\r\n" % len(BODY) + BODY + b"\r\n000\r\n\r\n"
    odd["blank lines before it"] = b"\r\n\r\n" + whole(front)
    for name, sent in odd.items():
        async with connected(front.url) as connection:
            await connection.send(sent)
            answer = await connection.answer()
            assert answer is not None, name
            assert (name, answer.status) == (name, 200)
            await goes_on(connection, front)


TARGETS = {
    "/": "404 not_found",
    "/v1": "404 not_found",
    "//v1/models": "200",
    "/v1/../v1/models": "404 not_found",
    "/v1/models/absent": "404 model_not_found",
    "/v1/models/%00": "404 model_not_found",
    "/v1/models/%ff": "404 model_not_found",
    "/v1/models/%zz": "404 model_not_found",
    "/v1/models/" + "m" * 8000: "404 model_not_found",
    "/v1/models/\xff": "400 invalid_request",
    "*": "400 invalid_request",
    "/v1/models#x": "404 not_found",
}


async def test_an_odd_target_gets_404_and_the_connection_stays_open(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    key = f"Authorization: Bearer {front.key}"
    reported = {}
    for target in TARGETS:
        async with connected(front.url) as connection:
            await connection.send(head("GET", target, key))
            answer = await connection.answer()
            assert answer is not None, target
            reported[target] = own_error(answer) if answer.status >= 400 else str(answer.status)
            if answer.headers.get("connection") != "close":
                await goes_on(connection, front)
    assert reported == TARGETS


async def test_another_method_is_refused_with_the_right_one(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    for method in ("HEAD", "OPTIONS", "GET", "PUT", "PATCH", "DELETE", "TRACE"):
        async with connected(front.url) as connection:
            await connection.send(head(method, PATH, f"Authorization: Bearer {front.key}"))
            answer = await connection.answer(bodyless=method == "HEAD")
            assert answer is not None, method
            assert (method, answer.status, answer.headers["allow"]) == (method, 405, "POST")
            if method != "HEAD":
                assert own_error(answer) == "405 method_not_allowed"
            await goes_on(connection, front)


async def test_pipelined_requests_are_answered_in_order(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    listing = head("GET", "/v1/models", f"Authorization: Bearer {front.key}")
    lost = head("GET", "/nothing", f"Authorization: Bearer {front.key}")
    stream = whole(front, STREAM)
    async with connected(front.url) as connection:
        await connection.send((listing + whole(front) + lost + stream) * 50)
        for _ in range(50):
            results = [await connection.answer() for _ in range(4)]
            assert [answer and answer.status for answer in results] == [200, 200, 404, 200]
            bodies = [answer.body for answer in results if answer]
            assert b'"list"' in bodies[0]
            assert b"w5" in bodies[1]
            assert bodies[3].endswith(b"data: [DONE]\n\n")
        with pytest.raises(TimeoutError):
            await connection.answer(seconds=0.2)  # no more than was asked
    assert len(scripted_engine.requests) == 100


async def test_offers_of_another_protocol_are_declined_one_by_one(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    """Java's client offers HTTP/2 with each request, and what is offered nobody has to take up."""
    front = await front_before(opened, scripted_engine.base_url)
    offer = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__")
    listing = head("GET", "/v1/models", f"Authorization: Bearer {front.key}", *offer)
    async with connected(front.url) as connection:
        await connection.send((listing + whole(front, BODY, *offer)) * 200)
        for _ in range(400):
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 200
        await goes_on(connection, front)
    assert len(scripted_engine.requests) == 201
