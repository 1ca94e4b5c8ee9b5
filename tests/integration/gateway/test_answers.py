"""Answers that engines really give, and worse: what the client gets of each, what is counted, and who is blamed."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.messages.gateway import UsageEvent
from tests.integration.gateway.hostile import (
    BODY,
    MEGABYTE,
    STREAM,
    Opened,
    front_before,
    own_error,
    peak_memory,
    post,
    send_request,
    still_serves,
    whole,
)
from tests.kit.raw_engine import DONE, EVENT, STREAM_HEAD, EngineSide, Play, raw_engine
from tests.kit.raw_engine import whole as answer_of
from tests.kit.raw_http import LAST_CHUNK, Answer, chunk, connected
from tests.kit.scripted_engine import ScriptedEngine

FILES = Path(__file__).parents[2] / "cases" / "answers"
USAGE = b'{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}'
CONTENT = b'{"object":"chat.completion","choices":[],"usage":' + USAGE + b"}"
RESPONSE = b'{"model":"org/model","input":"hi","stream":true}'


def saying(*parts: bytes, close: bool = False) -> Play:
    """An engine that says `parts`, each in a write of its own."""

    async def play(side: EngineSide) -> None:
        for part in parts:
            await side.send(part)
            await asyncio.sleep(0)
        if close:
            side.close()

    return play


def recorded(name: str) -> Play:
    """An answer from a file, each chunk in a write of its own."""
    answer = (FILES / f"{name}.http").read_bytes()
    head, _, body = answer.partition(b"\r\n\r\n")
    parts = [head + b"\r\n\r\n"]
    if b"chunked" not in head.lower():
        return saying(answer)
    while body:
        size = body.partition(b"\r\n")[0]
        end = len(size) + 2 + int(size, 16) + 2
        parts.append(body[:end])
        body = body[end:]
    return saying(*parts)


def counted(event: UsageEvent) -> tuple[object, ...]:
    return event.outcome, event.basis, event.prompt_tokens, event.cached_tokens, event.completion_tokens


def leaks(body: bytes) -> bool:
    return b'"usage"' in body


@dataclass(frozen=True)
class Case:
    expected: tuple[object, ...]
    ends: bytes = b""
    check: Callable[[Answer], bool] = lambda _answer: True


CASES = {
    "usage-cached-more.whole": Case(("completed", "engine", 7, 7, 5)),
    "usage-minus.whole": Case(("completed", "none", 0, 0, 0)),
    "usage-float.whole": Case(("completed", "engine", 7, 0, 5)),
    "usage-empty.whole": Case(("completed", "none", 0, 0, 0)),
    "usage-empty.stream": Case(("completed", "counted", 0, 0, 5), DONE),
    "multi-data.stream": Case(("completed", "engine", 7, 0, 5), DONE),
    "content-list-joined.stream": Case(("completed", "engine", 7, 0, 6), DONE),
    "data-nospace.stream": Case(("completed", "engine", 7, 0, 5), b"data:[DONE]\n\n"),
    "custom-event.stream": Case(("completed", "engine", 7, 0, 5), DONE, lambda a: b"event: tool.progress" in a.body),
    "resp-incomplete.responses": Case(("completed", "engine", 20, 4, 64)),
    "err-in-stream.stream": Case(("failed", "none", 0, 0, 0), DONE, lambda a: b"something broke inside" in a.body),
    "json-as-sse.stream": Case(
        ("failed", "none", 0, 0, 0),
        b'data: {"error":{"message":"your prompt is too long","type":"BadRequestError","code":400}}\n\n',
    ),
    "no-done.stream": Case(("completed", "engine", 7, 0, 5), DONE, lambda a: b"error" not in a.body),
    "gzip-engine.whole": Case(
        ("completed", "engine", 7, 0, 5), check=lambda a: json.loads(a.body)["usage"]["completion_tokens"] == 5
    ),
}


async def test_answers_from_the_field_are_passed_on_and_counted(opened: Opened) -> None:
    assert set(CASES) == {path.name.removesuffix(".http") for path in FILES.iterdir()}
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url)
        for name, case in CASES.items():
            engine.play = recorded(name)
            if name.endswith(".responses"):
                answer = await send_request(front, whole(front, RESPONSE, target="/v1/responses"))
            else:
                answer = await send_request(front, whole(front, STREAM if name.endswith(".stream") else BODY))
            assert (name, answer.status) == (name, 200)
            assert answer.body.endswith(case.ends), name
            assert case.check(answer), name
            assert not (name.endswith(".stream") and leaks(answer.body)), name
            assert "content-encoding" not in answer.headers
        events = await front.usage(len(CASES))
        for (name, case), event in zip(CASES.items(), events, strict=True):
            assert (name, counted(event)) == (name, case.expected)
        assert await front.metric("faults_total") == 0


async def test_background_mode_is_rejected(opened: Opened) -> None:
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url)
        body = RESPONSE[:-1] + b',"background":true}'
        answer = await send_request(front, whole(front, body, target="/v1/responses"))
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"], error["param"]) == (400, "invalid_request", "background")


async def test_one_that_breaks_off_without_its_end_is_lost(opened: Opened) -> None:
    finished = EVENT[:-5] + b',"finish_reason":"stop"}]}\n\n'
    async with raw_engine(saying(STREAM_HEAD, chunk(finished), close=True)) as engine:
        front = await front_before(opened, engine.base_url)
        answer = await send_request(front, whole(front, STREAM))
        assert b'"engine_lost"' in answer.body
        assert b"[DONE]" not in answer.body
        assert counted((await front.usage(1))[0]) == ("engine_lost", "counted", 0, 0, 1)
        engine.play = saying(STREAM_HEAD, chunk(finished), LAST_CHUNK)
        assert (await send_request(front, whole(front, STREAM))).body == finished + DONE
        two = STREAM[:-1] + b',"n":2}'
        assert b'"engine_lost"' in (await send_request(front, whole(front, two))).body, "only one of two has finished"


def compressed(data: bytes, *, raw: bool = False) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


async def test_compressed_answers_are_unpacked_within_bounds(opened: Opened) -> None:
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url)
        good = {
            "gzip": (b"gzip", gzip.compress(CONTENT)),
            "deflate": (b"Deflate", compressed(CONTENT)),
            "deflate without a header": (b"deflate", compressed(CONTENT, raw=True)),
            "identity": (b"identity", CONTENT),
        }
        for name, (coding, body) in good.items():
            engine.play = saying(answer_of(body, b"Content-Encoding: " + coding))
            answer = await send_request(front, whole(front))
            assert (name, answer.status, answer.body) == (name, 200, CONTENT)
        events_end = EVENT[:-3] + b',"usage":' + USAGE + b"}\n\n" + DONE
        events = gzip.compress(events_end)
        head = STREAM_HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n"
        engine.play = saying(head, *(chunk(events[at : at + 9]) for at in range(0, len(events), 9)), LAST_CHUNK)
        answer = await send_request(front, whole(front, STREAM))
        assert answer.body == EVENT + DONE
        many = EVENT * 20_000
        engine.play = saying(head, chunk(gzip.compress(many + events_end)), LAST_CHUNK)
        assert (await send_request(front, whole(front, STREAM))).body == many + EVENT + DONE
        assert {counted(event) for event in await front.usage(6)} == {("completed", "engine", 7, 0, 5)}
        before = peak_memory(front)
        bad = {
            "a bomb": (b"gzip", gzip.compress(bytes(30 * MEGABYTE))),
            "broken": (b"gzip", b"no gzip at all"),
            "cut": (b"gzip", gzip.compress(CONTENT)[:-12]),
            "unknown": (b"br", CONTENT),
            "twice": (b"gzip, gzip", CONTENT),
        }
        for name, (coding, body) in bad.items():
            engine.play = saying(answer_of(body, b"Content-Encoding: " + coding))
            answer = await send_request(front, whole(front))
            assert (name, own_error(answer)) == (name, "502 upstream_unreachable")
        assert peak_memory(front) - before < 40 * MEGABYTE
        engine.play = saying(answer_of())
        await still_serves(front)


async def test_an_engine_s_headers_pass_but_for_those_that_are_not_its_to_set(opened: Opened) -> None:
    theirs = (
        b"Retry-After: 7",
        b"X-Vendor: a",
        b"x-vendor: b",
        b"Server: uvicorn",
        b"Set-Cookie: a=b",
        b"X-Request-Id: theirs",
        b"X-RateLimit-Limit-Requests: 1",
        b"Access-Control-Allow-Origin: *",
        b"Connection: keep-alive, X-Hop",
        b"X-Hop: 1",
        b"X-Large: " + b"x" * 9000,
    )
    async with raw_engine(saying(answer_of(CONTENT, *theirs))) as engine:
        front = await front_before(opened, engine.base_url)
        got = (await send_request(front, whole(front))).headers
        assert (got["retry-after"], got["x-vendor"]) == ("7", "a, b")
        assert got["server"] == "spotinference"
        assert got["x-request-id"] != "theirs"
        assert not {"set-cookie", "x-hop", "x-large", "access-control-allow-origin"} & set(got)
        assert not [name for name in got if name.startswith("x-ratelimit")]
        head = STREAM_HEAD.replace(b"text/event-stream", b"text/event-stream; charset=utf-8; x=y")
        head = head[:-2] + b"X-Vendor: a\r\nCache-Control: public\r\n\r\n"
        engine.play = saying(head, chunk(EVENT + DONE), LAST_CHUNK)
        got = (await send_request(front, whole(front, STREAM))).headers
        assert (got["content-type"], got["x-vendor"]) == ("text/event-stream; charset=utf-8; x=y", "a")
        assert got["cache-control"] == "no-cache"


HOSTILE: dict[str, Play] = {
    "interim answers without end": saying(*[b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 500] * 8),
    "trailers without end": saying(STREAM_HEAD, chunk(EVENT), b"0\r\n", *[b"X-Trailer: y\r\n" * 1000] * 40),
    "one trailer without end": saying(STREAM_HEAD, chunk(EVENT), b"0\r\nX-Trailer: ", *[b"y" * 16384] * 40),
    "a chunk's extension without end": saying(STREAM_HEAD, chunk(EVENT), b"5;x=", *[b"y" * 16384] * 40),
    "an event nested deeply": saying(
        STREAM_HEAD, chunk(b'data: {"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n"), LAST_CHUNK
    ),
    "a flood of nothing": saying(STREAM_HEAD, *[chunk(b"\n\n" * 30_000)] * 8, LAST_CHUNK),
    "an event without end": saying(STREAM_HEAD, *[chunk(b"x" * 65536)] * 80),
}


async def test_nothing_that_an_engine_sends_stops_the_gateway(opened: Opened) -> None:
    async with raw_engine(saying(answer_of())) as engine:
        front = await front_before(opened, engine.base_url)
        await still_serves(front)
        before = peak_memory(front)
        for name, play in HOSTILE.items():
            engine.play = play
            answer = await send_request(front, whole(front, STREAM))
            reported = answer.status == 502 or b'"engine_lost"' in answer.body
            assert (name, reported) == (name, True)
            engine.play = saying(answer_of(CONTENT))  # one that fails again and again is left alone
            await send_request(front, whole(front))
        assert peak_memory(front) - before < 25 * MEGABYTE
        deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        engine.play = saying(answer_of(deep))
        assert (await send_request(front, whole(front))).body == deep
        engine.play = saying(answer_of(CONTENT))
        await still_serves(front)
        events = await front.usage(1 + 2 * len(HOSTILE) + 2)
        assert {counted(event) for event in events[2::2]} == {("completed", "engine", 7, 0, 5)}
        assert await front.metric("faults_total") == 0


async def test_a_request_an_engine_cannot_answer_affects_no_other_key(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    error = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    async with raw_engine(saying(error)) as engine:
        front = await front_before(opened, engine.base_url)
        await front.machine("m2", "ready", scripted_engine.base_url)
        await front.seen()
        for _ in range(9):
            assert (await send_request(front, whole(front))).status == 200
        moved = len(engine.requests)
        assert moved == 3, "its key leaves the machine alone"
        _, other = await front.mint()
        await front.knows(other)
        engine.play = saying(answer_of(CONTENT))
        sent = post(front, f"Content-Length: {len(BODY)}").replace(front.key.encode(), other.encode()) + BODY
        assert (await send_request(front, sent)).body == CONTENT
        assert len(engine.requests) == moved + 1


async def test_what_an_engine_does_not_support_is_not_its_machine_s_failure(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    refusals = (
        b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 2\r\n\r\nno",
        answer_of(b'{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}'),
    )
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url)
        await front.machine("m2", "ready", scripted_engine.base_url)
        await front.seen()
        for refusal in refusals:
            engine.play = saying(refusal)
            for _ in range(5):
                answer = await send_request(front, whole(front))
                assert answer.body == refusal.partition(b"\r\n\r\n")[2]
        assert await front.metric("machines_left_alone") == 0
        assert scripted_engine.requests == []
        assert {counted(event) for event in await front.usage(10)} == {("failed", "none", 0, 0, 0)}


async def test_all_choices_of_a_stream_that_its_client_left_are_counted(opened: Opened) -> None:
    def token(index: int, tokens: int) -> bytes:
        content = {"index": index, "delta": {"content": "w"}, "finish_reason": None}
        usage = {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens}
        event = {"id": "c", "object": "chat.completion.chunk", "choices": [content], "usage": usage}
        return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"

    tokens = [chunk(token(index, number)) for number in range(1, 12) for index in range(7)]
    held = asyncio.Event()

    async def play(side: EngineSide) -> None:
        await side.send(STREAM_HEAD, *tokens, chunk(b": all\n\n"))
        await side.left()
        held.set()

    async with raw_engine(play) as engine:
        front = await front_before(opened, engine.base_url)
        async with connected(front.url) as connection:
            await connection.send(whole(front, STREAM[:-1] + b',"n":7}'))
            await connection.until(b": all")
        await asyncio.wait_for(held.wait(), 30)
        assert counted((await front.usage(1))[0]) == ("client_closed", "engine", 7, 0, 77)
