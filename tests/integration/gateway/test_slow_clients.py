"""Clients that are slow, silent, too many or half there: each costs what its bounds say, and no more."""

import asyncio
from contextlib import AsyncExitStack, suppress

from tests.integration.gateway.hostile import (
    BODY,
    CHUNKED,
    HONEST,
    MEGABYTE,
    PATH,
    STREAM,
    Opened,
    front_before,
    goes_on,
    own_error,
    peak_memory,
    post,
    send_request,
    still_serves,
    whole,
)
from tests.kit.raw_engine import EVENT, STREAM_HEAD, EngineSide, raw_engine
from tests.kit.raw_http import RawConnection, chunk, connected, head
from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.waiting import until

DRIP_SECONDS = 0.05


async def drip(connection: RawConnection, data: bytes) -> None:
    """A byte at a time, until the other side has had enough."""
    with suppress(ConnectionError):
        for byte in data:
            await connection.send(bytes([byte]))
            await asyncio.sleep(DRIP_SECONDS)


async def dripped(connection: RawConnection, data: bytes) -> str:
    """What comes of it, an error of ours, and the end of the connection."""
    dripping = asyncio.create_task(drip(connection, data))
    try:
        answer = await connection.answer()
        assert answer is not None
        assert answer.headers.get("connection") == "close"
        assert await connection.until_end() == b""
    finally:
        dripping.cancel()
    return own_error(answer)


async def test_what_drips_is_cut_at_its_deadline(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url, 'head_timeout = "2s"\nbody_timeout = "2s"')
    async with AsyncExitStack() as stack:
        fresh, kept, sized, chunked = [await stack.enter_async_context(connected(front.url)) for _ in range(4)]
        await goes_on(kept, front)
        await sized.send(post(front, "Content-Length: 100000"))
        await chunked.send(post(front, CHUNKED))
        a_head, a_body = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000, b"1\r\nx\r\n" * 10000
        reported = await asyncio.gather(
            dripped(fresh, a_head), dripped(kept, a_head), dripped(sized, a_body), dripped(chunked, a_body)
        )
        assert [*reported] == ["408 request_timeout"] * 4
    await still_serves(front)
    assert len(scripted_engine.requests) == 2


async def test_a_silent_connection_is_closed_without_a_response(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url, 'keepalive_timeout = "2s"')
    async with connected(front.url) as silent, connected(front.url) as served:
        await goes_on(served, front)
        assert await silent.until_end() == b""
        assert await served.until_end() == b""
    await still_serves(front)


async def test_an_answer_is_no_idle_time(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    """What bounds a client's silence does not bound an engine's."""
    front = await front_before(
        opened,
        scripted_engine.base_url,
        'keepalive_timeout = "1s"\nbody_timeout = "1s"\nhead_timeout = "1s"\nwrite_timeout = "1s"',
    )
    scripted_engine.default = Script(tokens=1, interval=1.5)
    answer, stream = await asyncio.gather(send_request(front, whole(front)), send_request(front, whole(front, STREAM)))
    assert answer.status == 200
    assert stream.body.endswith(b"data: [DONE]\n\n")


async def test_bodies_have_one_bound_together(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(
        opened, scripted_engine.base_url, 'max_buffered_bytes = 100000\nmax_body_bytes = 80000\nbody_timeout = "60s"'
    )
    body = BODY.ljust(80_000)
    async with AsyncExitStack() as stack:
        answering = {}
        for _ in range(2):
            connection = await stack.enter_async_context(connected(front.url))
            await connection.send(whole(front, body)[:-1])
            answering[asyncio.create_task(connection.answer())] = connection
        (refused,), (other,) = await asyncio.wait(answering, return_when=asyncio.FIRST_COMPLETED)
        answer = refused.result()
        assert answer is not None
        assert own_error(answer) == "429 too_many_waiting"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        await answering[other].send(body[-1:])
        answer = await other
        assert answer is not None
        assert answer.status == 200
    for _ in range(3):  # what was taken is given back
        assert (await send_request(front, whole(front, body))).status == 200


async def test_a_bad_key_is_answered_from_the_head_alone(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    keys = ("", "Bearer", "Bearer ", "Bearer sk-wrong", "Basic dTpw", f"bearer {front.key}x", "Bearer \xff\xfe")
    for key in keys:
        for length in ("Content-Length: 1000000000", CHUNKED, "Content-Length: 5\r\nExpect: 100-continue"):
            async with connected(front.url) as connection:
                await connection.send(head("POST", PATH, f"Authorization: {key}", length))
                answer = await connection.answer()
                assert answer is not None
                assert own_error(answer) == "401 invalid_api_key"
                assert answer.headers.get("connection") == "close"
                assert await connection.until_end() == b""
    assert scripted_engine.requests == []
    await still_serves(front)


async def test_a_refusal_can_be_read_by_a_client_that_still_sends(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    """Closing with unread bytes in the kernel resets the connection, and the answer with it."""
    front = await front_before(opened, scripted_engine.base_url)
    async with connected(front.url) as connection:
        await connection.send(head("POST", PATH, "Authorization: Bearer no", f"Content-Length: {MEGABYTE}"))
        for _ in range(16):
            await connection.send(b"x" * (MEGABYTE // 16))
            await asyncio.sleep(0.01)  # the answer is long there, and the client does not look
        answer = await connection.answer()
        assert answer is not None
        assert own_error(answer) == "401 invalid_api_key"
        assert await connection.until_end() == b""


async def test_100_continue_is_sent_once_the_key_is_valid(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    async with connected(front.url) as connection:
        await connection.send(post(front, HONEST, "Expect: 100-continue"))
        interim = await connection.answer()
        assert interim is not None
        assert interim.status == 100
        await connection.send(BODY)
        answer = await connection.answer()
        assert answer is not None
        assert answer.status == 200
        await goes_on(connection, front)


async def test_http_1_0_is_served_and_closed(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    for body in (BODY, STREAM):
        async with connected(front.url) as connection:
            await connection.send(post(front, f"Content-Length: {len(body)}", version="HTTP/1.0") + body)
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 200
            assert "transfer-encoding" not in answer.headers, "HTTP/1.0 knows no chunks"
            assert b"w5" in answer.body
            assert await connection.until_end() == b""


async def test_a_client_that_leaves_within_its_request_leaks_nothing(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    sent = whole(front)
    for end in range(1, len(sent), 29):
        async with connected(front.url) as connection:
            await connection.send(sent[:end])
            if end % 2:
                connection.abort()
            else:
                connection.finish()
                with suppress(ConnectionError):
                    await connection.until_end()
    await still_serves(front)
    assert len(scripted_engine.requests) == 1


async def test_a_client_that_never_reads_is_cut_and_memory_stays_bounded(opened: Opened) -> None:
    piece = chunk(EVENT.replace(b'"w"', b'"' + b"w" * 65_536 + b'"'))

    async def endless(side: EngineSide) -> None:
        await side.send(STREAM_HEAD)
        while True:
            await side.send(piece)

    async with raw_engine(endless) as engine:
        front = await front_before(opened, engine.base_url, 'write_timeout = "500ms"')
        async with connected(front.url) as connection:
            await connection.send(whole(front, STREAM))
            await until(lambda: asyncio.sleep(0, len(engine.requests)), lambda seen: seen == 1)
            before = peak_memory(front)
            (event,) = await front.usage(1)
        assert (event.outcome, event.streamed) == ("client_closed", True)
        assert peak_memory(front) - before < 20 * MEGABYTE


async def test_a_pipelining_client_that_never_reads_is_not_read_either(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    await still_serves(front)
    before = peak_memory(front)
    asking = head("GET", "/v1/models", f"Authorization: Bearer {front.key}") * 1000
    async with connected(front.url) as connection:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(3):
                await connection.send(*[asking] * 200)
    await still_serves(front)
    assert peak_memory(front) - before < 10 * MEGABYTE
