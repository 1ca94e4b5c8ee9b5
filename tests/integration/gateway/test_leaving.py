"""Clients that leave, at whatever point: the engine is told before it has done much more, and nothing is kept."""

import asyncio
from contextlib import AsyncExitStack

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import (
    BODY,
    MEGABYTE,
    STREAM,
    Opened,
    peak_memory,
    post,
    send_request,
    still_serves,
    whole,
)
from tests.kit.raw_engine import EVENT, STREAM_HEAD, EngineSide, raw_engine
from tests.kit.raw_engine import whole as answer_of
from tests.kit.raw_http import RawConnection, chunk, connected, head
from tests.kit.waiting import until

TOKEN_SECONDS = 0.02
MOST_TOKENS = 25
"""After a client has left, on the slowest machine: a token every 20 ms makes five of the promised 100 ms."""
CLIENTS = 20
EACH = 8


class Talking:
    """An engine that streams until nobody listens, and is silent to who wants no stream."""

    def __init__(self) -> None:
        self.left_at: asyncio.Event = asyncio.Event()
        self.after = 0
        """Tokens, since the clients left."""
        self.most_after = 0

    async def play(self, side: EngineSide, sent: bytes) -> None:
        gone = asyncio.create_task(side.left())
        if b'"stream"' in sent:
            await side.send(STREAM_HEAD)
        tokens = 0
        while not gone.done():
            if b'"stream"' in sent:
                await side.send(chunk(EVENT))
            tokens += self.left_at.is_set()
            await asyncio.wait([gone], timeout=TOKEN_SECONDS)
        side.close()
        self.most_after = max(self.most_after, tokens)


WAYS = ((RawConnection.close, 5), (RawConnection.abort, 0), (RawConnection.finish, 0))
"""And how many more requests the client asks at once and again later, which wait for their turn."""


async def test_a_disconnect_aborts_the_engine_at_once(opened: Opened) -> None:
    talking = Talking()

    async def play(side: EngineSide) -> None:
        await talking.play(side, engine.requests[-1])

    async with raw_engine(play) as engine, AsyncExitStack() as stack:
        front = await opened(room=2 * CLIENTS)
        await front.machine("m1", "ready", engine.base_url)
        await front.seen()
        for leave, ahead in WAYS:
            talking = Talking()
            engine.requests.clear()
            connections = [await stack.enter_async_context(connected(front.url)) for _ in range(CLIENTS)]
            for number, connection in enumerate(connections):
                await connection.send(whole(front, STREAM if number % 2 else BODY) + head("GET", "/health") * ahead)
            for connection in connections[1::2]:
                await connection.until(EVENT)
            await until(lambda: asyncio.sleep(0, len(engine.requests)), lambda seen: seen == CLIENTS)
            for connection in connections:
                await connection.send(head("GET", "/health") * ahead)
            assert (await send_request(front, head("GET", "/health"))).status == 200  # it has read them
            talking.left_at.set()
            for connection in connections:
                leave(connection)
            await until(lambda: asyncio.sleep(0, engine.open), lambda kept: kept == 0)
            assert talking.most_after <= MOST_TOKENS
            await nothing_kept(front)
        events = await front.usage(len(WAYS) * CLIENTS)
        assert sorted((event.outcome, event.status, event.completion_tokens > 0) for event in events) == (
            [("client_closed", 0, False)] * (len(WAYS) * CLIENTS // 2)
            + [("client_closed", 200, True)] * (len(WAYS) * CLIENTS // 2)
        ), "one event each"


async def nothing_kept(front: Front) -> None:
    for name in ("connections", "in_flight", "waiting", "buffered_bytes", "unread_answers"):
        await until(lambda name=name: front.metric(name), lambda held: held == 0)  # type: ignore[misc]  # a default


async def test_a_client_that_leaves_early_leaks_nothing(opened: Opened) -> None:
    """Again and again: what each took is given back before the next needs it."""

    async def play(side: EngineSide) -> None:
        await side.send(answer_of())

    async with raw_engine(play) as engine:
        front = await opened()
        await front.machine("m1", "asleep")
        size = 4 * MEGABYTE
        first = 0
        for turn in range(4):
            async with AsyncExitStack() as stack:
                uploading = [await stack.enter_async_context(connected(front.url)) for _ in range(EACH)]
                for connection in uploading:
                    await connection.send(post(front, f"Content-Length: {size}"), b" " * (size - 1))
                held = [await stack.enter_async_context(connected(front.url)) for _ in range(EACH)]
                for number, connection in enumerate(held):
                    body = (STREAM if number % 2 else BODY)[:-1] + b',"x":"' + b"x" * MEGABYTE + b'"}'
                    await connection.send(whole(front, body) + head("GET", "/health") * 5 * (number % 4 > 1))
                await until(lambda: front.metric("waiting"), lambda waiting: waiting == EACH)
                await until(lambda: front.metric("buffered_bytes"), lambda taken: taken > EACH * size * 0.9)
            await nothing_kept(front)
            if not turn:
                first = peak_memory(front)
        assert peak_memory(front) - first < 8 * MEGABYTE
        assert engine.requests == []
        await front.machine("m1", "ready", engine.base_url)
        assert (await send_request(front, whole(front))).status == 200
        assert len(await front.usage(1)) == 1, "what no engine has seen is no event"
        await still_serves(front)
