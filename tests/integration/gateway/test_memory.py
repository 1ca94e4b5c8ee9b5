"""What the gateway holds for its clients: counted until it is released, bounded for each key and in total."""

import asyncio
from contextlib import AsyncExitStack, suppress

from tests.integration.gateway.hostile import (
    BODY,
    MEGABYTE,
    PATH,
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
from tests.kit.raw_engine import EngineSide, raw_engine
from tests.kit.raw_engine import whole as engine_answer
from tests.kit.raw_http import RawConnection, connected, head
from tests.kit.scripted_engine import NAME, ScriptedEngine
from tests.kit.waiting import until

ANSWER = engine_answer(b'{"choices":[],"x":"' + b"A" * (12 * MEGABYTE) + b'"}')
"""More than the kernel takes off the gateway's hands."""
LIMITS = f"max_body_bytes = 65536\nmax_buffered_bytes_per_key = {32 * MEGABYTE}\nmax_buffered_bytes = {64 * MEGABYTE}"
LARGE = 30 * MEGABYTE


async def answers_large(side: EngineSide) -> None:
    await side.send(ANSWER)


def with_key(key: str) -> bytes:
    return head("POST", PATH, f"Authorization: Bearer {key}", f"Content-Length: {len(BODY)}") + BODY


async def begun(connection: RawConnection) -> int:
    """The status of an answer whose body is left unread."""
    first = await connection.until(b"\r\n\r\n")
    return int(first.split(b" ", 2)[1])


async def test_a_large_buffered_response_is_not_sent_into_a_begun_stream(opened: Opened) -> None:
    async with raw_engine(answers_large) as engine:
        front = await opened()
        await front.machine("m2", "waking", phase="loading")
        await front.seen()
        async with connected(front.url) as connection:
            await connection.send(whole(front, STREAM))
            assert b" 200 " in await connection.until(b": waking")
            await front.machine("m2", "ready", engine.base_url)
            assert b'"upstream_unreachable"' in await connection.until(b"0\r\n\r\n")
        assert (await front.usage(1))[0].outcome == "failed"
        assert await front.metric("buffered_bytes") == 0


async def test_buffered_responses_count_for_their_key_until_read(opened: Opened) -> None:
    async with raw_engine(answers_large) as engine, AsyncExitStack() as stack:
        front = await front_before(opened, engine.base_url, LIMITS)
        unread = [await stack.enter_async_context(connected(front.url)) for _ in range(2)]
        for connection in unread:
            await connection.send(whole(front))
            assert await begun(connection) == 200
        assert 24 * MEGABYTE < await front.metric("buffered_bytes") < 32 * MEGABYTE
        assert await front.metric("unread_answers") == 2
        refused = await send_request(front, whole(front))
        assert own_error(refused) == "429 too_many_waiting"
        assert 1 <= int(refused.headers["retry-after"]) <= 60

        _, another = await front.mint()
        await front.knows(another)
        assert (await send_request(front, with_key(another))).status == 200

        for connection in unread:
            await connection.send(whole(front))  # asked ahead: its turn comes when the first has been read
            await connection.until(b'"}HTTP/1.1 ')
            connection.close()
        await until(lambda: front.metric("buffered_bytes"), lambda held: held == 0)
        assert await front.metric("unread_answers") == 0
        assert [(event.outcome, event.status) for event in await front.usage(6)].count(("failed", 200)) == 1
        assert peak_memory(front) < 250 * MEGABYTE


async def test_an_answer_is_released_once_it_is_read_or_lost(opened: Opened) -> None:
    async def answers(side: EngineSide) -> None:
        is_whole = len(engine.requests) % 2 == 1
        await side.send(ANSWER if is_whole else ANSWER[:-1])
        if not is_whole:
            side.close()

    async with raw_engine(answers) as engine:
        front = await front_before(opened, engine.base_url)
        statuses = [(await send_request(front, whole(front))).status for _ in range(12)]
        assert statuses == [200, 502] * 6
        assert peak_memory(front) < 150 * MEGABYTE


async def test_bodies_of_one_key_leave_room_for_those_of_others(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    limits = "max_buffered_bytes = 400000\nmax_buffered_bytes_per_key = 100000\nmax_body_bytes = 80000\n"
    front = await front_before(opened, scripted_engine.base_url, limits + 'body_timeout = "60s"')
    _, another = await front.mint()
    await front.knows(another)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(front.url)) for _ in range(4)]
        for connection in connections:
            await connection.send(post(front, "Content-Length: 80000"), BODY.ljust(79_999))
        answering = {asyncio.create_task(connection.answer()): connection for connection in connections}
        while len(answering) > 1:  # one of them fits
            done, _ = await asyncio.wait(answering, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del answering[task]
                refused = task.result()
                assert refused is not None
                assert own_error(refused) == "429 too_many_waiting"
        assert (await send_request(front, with_key(another))).status == 200
        ((task, connection),) = answering.items()
        await connection.send(b" ")
        answer = await task
        assert answer is not None
        assert answer.status == 200
    await still_serves(front)


def large(start: bytes, unit: bytes, end: bytes) -> bytes:
    first = BODY[:-1] + b',"stream":true,"stream_options":{"include_usage":true},'
    return first + start + unit * ((LARGE - len(first) - len(start) - len(end)) // len(unit)) + end


LARGE_BODIES = {
    "one image": (b'"x":"', b"QUJD", b'"}'),
    "an escape": (b'"x":"\\u00e9\\u0061', b"QUJD", b'"}'),
    "strings": (b'"x":[', b'"model", ', b"1]}"),
    "numbers": (b'"x":[', b"123456,", b"1]}"),
    "members": (b"", b'"a":1,', b'"b":1}'),
    "depth": (b'"x":"', b"QUJD", b'","y":' + b"[" * 100_000),
}


async def test_large_bodies_take_a_small_multiple_of_their_size(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    await still_serves(front)
    before = peak_memory(front)
    for parts in LARGE_BODIES.values():
        body = large(*parts)
        answer = await send_request(front, whole(front, body))
        if answer.status == 200:
            sent = scripted_engine.requests[-1].raw
            assert b'"model": "%b"' % NAME.encode() in sent[:100]
            assert sent.endswith(body[-LARGE // 2 :])
        else:
            assert own_error(answer) in {"400 invalid_json", "400 invalid_request"}
        scripted_engine.requests.clear()
        # Its client has the answer a moment before the gateway lets go of the body.
        await until(lambda: front.metric("buffered_bytes"), lambda held: held == 0)
    # The bytes as they came, the body made of them, and at times a gap in the heap that none of the two fits in.
    assert peak_memory(front) - before < 3.5 * LARGE


async def test_what_is_sent_ahead_of_its_turn_is_not_kept(opened: Opened) -> None:
    async with raw_engine(answers_large) as engine:
        front = await front_before(opened, engine.base_url)
        async with connected(front.url) as connection:
            await connection.send(whole(front))
            assert await begun(connection) == 200
            held = await front.metric("buffered_bytes")
            with suppress(TimeoutError):
                # The answer before is not read, so more than the kernel's buffers hold is not taken.
                async with asyncio.timeout(2):
                    await connection.send(head("POST", PATH, f"Content-Length: {LARGE}"), bytes(LARGE))
            assert await front.metric("buffered_bytes") < held + MEGABYTE
            assert (await send_request(front, whole(front, b"{"))).status == 400
        await until(lambda: front.metric("buffered_bytes"), lambda held: held == 0)
