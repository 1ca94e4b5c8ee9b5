"""A gateway that stood still for longer than every time limit: nobody else's time has passed meanwhile."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import pytest

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import (
    BODY,
    STREAM,
    Opened,
    front_before,
    goes_on,
    own_error,
    post,
    still_serves,
    whole,
)
from tests.kit.raw_engine import DONE, EVENT, STREAM_HEAD, EngineSide, raw_engine
from tests.kit.raw_engine import whole as answer_of
from tests.kit.raw_http import LAST_CHUNK, Answer, RawConnection, chunk, connected, head
from tests.kit.waiting import until

LIMIT_SECONDS = 3.0
LIMITS = "\n".join(
    f'{name} = "{LIMIT_SECONDS:g}s"'
    for name in (
        "head_timeout",
        "body_timeout",
        "keepalive_timeout",
        "write_timeout",
        "first_byte_timeout",
        "read_timeout",
        "connect_timeout",
    )
)
TICKS_SECONDS = 0.4
"""After a stall: its clock has looked at every deadline by then, and most of the time limits is left."""
LARGE = chunk(EVENT.replace(b'"w"', b'"' + b"w" * 65_536 + b'"'))
LARGES = 200
"""More than the kernel takes off the gateway's hands."""


class Slow:
    """An engine that is halfway through its answer when the gateway stands still, and goes on when it is told."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def play(self, side: EngineSide, sent: bytes) -> None:
        if b'"silent"' in sent:
            await self.go_on.wait()
            await side.send(answer_of())
        elif b'"whole"' in sent:
            answer = answer_of()
            await side.send(answer[:-5])
            await self.go_on.wait()
            await side.send(answer[-5:])
        elif b'"large"' in sent:
            await side.send(STREAM_HEAD, *[LARGE] * LARGES, chunk(DONE), LAST_CHUNK)
        elif b'"stream"' in sent:
            await side.send(STREAM_HEAD, chunk(EVENT))
            await self.go_on.wait()
            await side.send(chunk(EVENT), chunk(DONE), LAST_CHUNK)
        else:
            await side.send(answer_of())


def saying(body: bytes, word: bytes) -> bytes:
    return body.replace(b"honest", word)


async def stand_still(front: Front, seconds: float) -> None:
    """It does nothing for so long, and has looked at its clock afterwards."""
    os.kill(front.service.announced.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(front.service.announced.pid, signal.SIGCONT)
    await asyncio.sleep(TICKS_SECONDS)


async def answer_to(connection: RawConnection) -> Answer:
    answer = await connection.answer()
    assert answer is not None
    return answer


async def rest_of(connection: RawConnection) -> bytearray:
    """Of a stream that ends well."""
    results = bytearray()
    while not results.endswith(LAST_CHUNK):
        taken = await connection.take()
        assert taken, results[-200:]
        results += taken
    assert DONE in results[-100:]
    return results


async def test_a_stall_of_the_gateway_ends_no_request(opened: Opened) -> None:
    slow = Slow()

    async def play(side: EngineSide) -> None:
        await slow.play(side, engine.requests[-1])

    async with raw_engine(play) as engine, AsyncExitStack() as stack:
        front = await front_before(opened, engine.base_url, LIMITS)

        async def client(*sent: bytes) -> RawConnection:
            connection = await stack.enter_async_context(connected(front.url))
            await connection.send(*sent)
            return connection

        await still_serves(front)
        at_engine = {
            word: await client(whole(front, saying(body, word)))
            for word, body in ((b"silent", BODY), (b"whole", BODY), (b"stream", STREAM), (b"large", STREAM))
        }
        await until(lambda: asyncio.sleep(0, len(engine.requests)), lambda seen: seen == 5)
        await at_engine[b"stream"].until(EVENT)
        await at_engine[b"large"].until(STREAM_HEAD[:12])
        sent = whole(front)
        in_head, in_body = await client(sent[:40]), await client(sent[:-10])
        in_chunks = await client(post(front, "Transfer-Encoding: chunked") + chunk(BODY[:10]) + b"30\r\n")
        idle = await client(head("GET", "/health"))
        assert (await answer_to(idle)).status == 200

        await stand_still(front, LIMIT_SECONDS + TICKS_SECONDS)

        slow.go_on.set()
        await in_head.send(sent[40:])
        await in_body.send(sent[-10:])
        await in_chunks.send(BODY[10:58] + b"\r\n" + chunk(BODY[58:]) + LAST_CHUNK)
        for connection in (in_head, in_body, in_chunks, at_engine[b"silent"], at_engine[b"whole"]):
            answer = await answer_to(connection)
            assert (answer.status, answer.body) == (200, answer_of().partition(b"\r\n\r\n")[2])
        await goes_on(idle, front)
        assert (await at_engine[b"stream"].until(DONE)).count(EVENT) == 1
        assert len(await rest_of(at_engine[b"large"])) > LARGES * 65_536
        events = await front.usage(9)
        assert {event.outcome for event in events} == {"completed"}
        assert await front.metric("failovers_total") == await front.metric("machines_left_alone") == 0


@pytest.mark.long
async def test_after_a_stall_the_limits_hold_again(opened: Opened) -> None:
    """They are put off by it and not forgotten."""

    async def silent(side: EngineSide) -> None:
        await side.left()

    async with raw_engine(silent) as engine:
        front = await front_before(opened, engine.base_url, LIMITS)
        async with connected(front.url) as in_head, connected(front.url) as in_body, connected(front.url) as waiting:
            await in_head.send(b"GET / HTTP/1.1\r\n")
            await in_body.send(whole(front)[:-10])
            await waiting.send(whole(front))
            await until(lambda: asyncio.sleep(0, len(engine.requests)), lambda seen: seen == 1)
            await stand_still(front, LIMIT_SECONDS)
            assert own_error(await answer_to(in_head)) == "408 request_timeout"
            assert own_error(await answer_to(in_body)) == "408 request_timeout"
            assert own_error(await answer_to(waiting)) == "502 upstream_unreachable"
