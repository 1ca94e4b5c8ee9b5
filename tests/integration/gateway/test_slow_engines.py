"""Engines that are slow, silent or talk nonsense: another machine where nothing has come yet, else the truth."""

import asyncio
import json
from contextlib import suppress

import pytest

from tests.integration.gateway.hostile import (
    BODY,
    MEGABYTE,
    STREAM,
    UUID7,
    Opened,
    front_before,
    moved_to,
    own_error,
    peak_memory,
    send_request,
    whole,
)
from tests.kit.raw_engine import DONE, EVENT, STREAM_HEAD, EngineSide, Play, raw_engine
from tests.kit.raw_engine import whole as answer_of
from tests.kit.raw_http import LAST_CHUNK, Cut, chunk
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until

QUICK = 'first_byte_timeout = "2s"\nread_timeout = "2s"'
"""For engines that stay silent; the honest ones have the patience of the default."""
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


def saying(*parts: bytes, pause: float = 0.0, then: str = "stay") -> Play:
    """An engine that says `parts`, with `pause` seconds between them, and then stays silent, closes or resets."""

    async def play(side: EngineSide) -> None:
        for part in parts:
            await side.send(part)
            await asyncio.sleep(pause)
        if then == "close":
            side.close()
        elif then == "reset":
            side.abort()
        elif then == "stay":
            await side.left()

    return play


GOOD = saying(answer_of(), then="on")
GOOD_ONCE = saying(answer_of().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), then="close")


async def endless_header(side: EngineSide) -> None:
    await side.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await side.send(b"X: " + b"y" * 60_000 + b"\r\n")


async def endless_interim(side: EngineSide) -> None:
    while True:
        await side.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)


SPEECHLESS: dict[str, Play] = {
    "silence": saying(),
    "closed": saying(then="close"),
    "reset": saying(then="reset"),
    "half a status line": saying(b"HTTP/1.1 20"),
    "half a head": saying(b"HTTP/1.1 200 OK\r\nContent-Type: text/eve", then="close"),
    "no HTTP": saying(b"* OK IMAP4 ready\r\n"),
    "HTTP/2": saying(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)),
    "a status of letters": saying(b"HTTP/1.1 OK 200\r\n\r\n"),
    "a status of four digits": saying(b"HTTP/1.1 2000 OK\r\n\r\n"),
    "two lengths": saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345"),
    "a length and chunks": saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "a length of letters": saying(b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n"),
    "a header with a null": saying(b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\n{}"),
    "another protocol": saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "an interim answer alone": saying(b"HTTP/1.1 100 Continue\r\n\r\n", then="close"),
    "an endless header": endless_header,
    "endless interim answers": endless_interim,
}
"""None of them has said a byte of an answer that could be passed on."""


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_an_engine_without_an_answer_is_left_for_another_machine(
    opened: Opened, scripted_engine: ScriptedEngine, body: bytes
) -> None:
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url, QUICK)
        await front.machine("m2", "ready", scripted_engine.base_url)
        before = peak_memory(front)
        for name, play in SPEECHLESS.items():
            engine.play = play
            answer = await send_request(front, whole(front, body))
            assert (name, answer.status, b"w5" in answer.body) == (name, 200, True)
            engine.play = GOOD_ONCE  # one that fails again and again is left alone
            assert (await send_request(front, whole(front))).body == answer_of().partition(b"\r\n\r\n")[2]
        assert peak_memory(front) - before < 30 * MEGABYTE
        events = await front.usage(2 * len(SPEECHLESS))
    assert [event.machine for event in events] == ["m2", "m1"] * len(SPEECHLESS)
    assert {(event.outcome, event.status) for event in events} == {("completed", 200)}
    assert (len(scripted_engine.requests), len(engine.requests)) == (len(SPEECHLESS), 2 * len(SPEECHLESS))


async def test_a_failure_without_another_machine_gets_502(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url, QUICK)
        for name, play in SPEECHLESS.items():
            engine.play = play
            answer = await send_request(front, whole(front))
            assert (name, own_error(answer)) == (name, "502 upstream_unreachable")
        events = await front.usage(len(SPEECHLESS))
        assert {(event.outcome, event.completion_tokens) for event in events} == {("failed", 0)}
        await moved_to(front, scripted_engine.base_url)


BROKEN_STREAMS: dict[str, Play] = {
    "silence": saying(STREAM_HEAD, chunk(EVENT)),
    "closed": saying(STREAM_HEAD, chunk(EVENT), then="close"),
    "reset": saying(STREAM_HEAD, chunk(EVENT), pause=0.2, then="reset"),
    "ended": saying(STREAM_HEAD, chunk(EVENT), LAST_CHUNK, then="on"),
    "half an event": saying(STREAM_HEAD, chunk(EVENT), chunk(EVENT[:20]), then="close"),
    "no chunk": saying(STREAM_HEAD, chunk(EVENT), b"this is no size\r\n"),
    "a chunk without an end": saying(STREAM_HEAD, chunk(EVENT), chunk(EVENT[:20])[:-2] + b"XX"),
    "a chunk too large": saying(STREAM_HEAD, chunk(EVENT), b"fffffffffffffffff\r\n"),
}


async def test_a_stream_that_breaks_ends_with_one_error(opened: Opened) -> None:
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url, QUICK)
        for name, play in BROKEN_STREAMS.items():
            engine.play = play
            answer = await send_request(front, whole(front, STREAM))
            events = [event for event in answer.body.split(b"\n\n") if event]
            assert answer.status == 200
            assert DONE.strip() not in events, name
            assert [EVENT.strip() == event for event in events] == [True, False], (name, events)
            assert json.loads(events[1].removeprefix(b"data: "))["error"]["code"] == "engine_lost"
        counted = await front.usage(len(BROKEN_STREAMS))
    assert {(event.outcome, event.completion_tokens) for event in counted} == {("engine_lost", 1)}
    assert len(counted) == len(engine.requests) == len(BROKEN_STREAMS)


@pytest.mark.parametrize(
    "play",
    [saying(LENGTH, b"{"), saying(LENGTH, b"{", then="close"), saying(LENGTH, b"{", pause=0.2, then="reset")],
    ids=["silence", "closed", "reset"],
)
async def test_a_truncated_response_is_never_passed_on(
    opened: Opened, scripted_engine: ScriptedEngine, play: Play
) -> None:
    async with raw_engine(play) as engine:
        front = await front_before(opened, engine.base_url, QUICK)
        with suppress(Cut, ConnectionResetError):
            assert (await send_request(front, whole(front))).status == 502
        (event,) = await front.usage(1)
        assert event.outcome in {"failed", "engine_lost"}
        await moved_to(front, scripted_engine.base_url)


HONEST_ANSWERS: dict[str, Play] = {
    "at once": saying(answer_of(), then="on"),
    "byte by byte": saying(*(bytes([byte]) for byte in answer_of()), pause=0.001, then="on"),
    "slowly": saying(answer_of()[:60], answer_of()[60:], pause=0.3, then="on"),
    "after interim answers": saying(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        answer_of(),
        then="on",
    ),
    "up to the end of the connection": saying(
        b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + answer_of().split(b"\r\n\r\n")[1], then="close"
    ),
    "by HTTP/1.0": saying(answer_of().replace(b"1.1", b"1.0"), then="close"),
    "and the end": saying(answer_of().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), then="close"),
    "in chunks": saying(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *(chunk(bytes([byte])) for byte in answer_of().split(b"\r\n\r\n")[1]),
        LAST_CHUNK,
        then="on",
    ),
    "with headers that are not for clients": saying(
        answer_of().replace(
            b"\r\n\r\n", b"\r\nX-Request-Id: theirs\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a=b\r\n\r\n"
        ),
        then="on",
    ),
}


async def test_an_honest_answer_passes_however_its_bytes_come(opened: Opened) -> None:
    async with raw_engine(saying()) as engine:
        front = await front_before(opened, engine.base_url)
        for name, play in HONEST_ANSWERS.items():
            engine.play = play
            answer = await send_request(front, whole(front))
            assert (name, answer.status, answer.body) == (name, 200, answer_of().split(b"\r\n\r\n")[1])
            assert UUID7.fullmatch(answer.headers["x-request-id"])
            assert "set-cookie" not in answer.headers
        assert len(engine.requests) == len(HONEST_ANSWERS)
        assert {event.outcome for event in await front.usage(len(HONEST_ANSWERS))} == {"completed"}


async def test_unrequested_data_of_an_engine_reaches_no_client(opened: Opened) -> None:
    """An engine that says more than one answer desynchronises its connection: it is not used again."""
    async with raw_engine(saying(answer_of(), answer_of(b'{"evil":1}'), then="on")) as engine:
        front = await front_before(opened, engine.base_url)
        for _ in range(3):
            assert b"evil" not in (await send_request(front, whole(front))).body
        engine.play = saying(answer_of(), answer_of(b'{"evil":1}'), pause=0.05, then="on")
        for _ in range(3):
            assert b"evil" not in (await send_request(front, whole(front))).body
            await until(lambda: asyncio.sleep(0, engine.open), lambda kept: kept == 0)
        assert len(engine.requests) == 6


async def test_a_kept_connection_that_has_ended_is_no_failover(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    turns: list[Play] = []

    async def by_turns(side: EngineSide) -> None:
        await turns.pop(0)(side)

    async with raw_engine(by_turns) as engine:
        front = await front_before(opened, engine.base_url)
        await front.machine("m2", "ready", scripted_engine.base_url)
        for end in ("close", "reset"):
            turns += [GOOD, saying(then=end), GOOD]
            assert (await send_request(front, whole(front))).status == 200
            assert (await send_request(front, whole(front))).status == 200
        assert engine.connections == 3
        turns += [saying(answer_of(), then="close"), GOOD]
        assert (await send_request(front, whole(front))).status == 200
        assert (await send_request(front, whole(front))).status == 200
    assert turns == []
    assert scripted_engine.requests == []
    assert [event.machine for event in await front.usage(6)] == ["m1"] * 6


async def test_an_engine_may_respond_before_it_has_read_the_request(opened: Opened) -> None:
    refusal = answer_of(b'{"error":{"message":"too long"}}', b"Connection: close").replace(
        b"200 OK", b"400 Bad Request"
    )
    async with raw_engine(saying(refusal, then="close")) as engine:
        engine.reads_whole = False
        front = await front_before(opened, engine.base_url)
        for size in (1, 8 * MEGABYTE):
            answer = await send_request(front, whole(front, STREAM[:-1] + b',"x":"' + b"x" * size + b'"}'))
            assert (answer.status, answer.error["message"]) == (400, "too long")


async def test_a_connection_with_a_request_that_was_not_read_is_not_used_again(opened: Opened) -> None:
    first: list[EngineSide] = []

    async def play(side: EngineSide) -> None:
        if not first:
            first.append(side)
        await side.send(answer_of())
        if side is first[0]:
            await asyncio.Event().wait()  # it reads no more

    async with raw_engine(play) as engine:
        engine.reads_whole = False
        front = await front_before(opened, engine.base_url)
        large = BODY[:-1] + b',"x":"' + b"A" * (20 * MEGABYTE) + b'"}'
        assert (await send_request(front, whole(front, large))).status == 200
        assert (await send_request(front, whole(front))).status == 200
        assert engine.connections == 2
