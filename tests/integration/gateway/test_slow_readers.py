"""Who reads a stream too slowly to be a reader loses its place; who only reads slowly keeps it."""

import asyncio
from contextlib import suppress

from shared.tasks import cancel_and_wait
from tests.integration.gateway.hostile import (
    BODY,
    MEGABYTE,
    STREAM,
    Opened,
    peak_memory,
    send_request,
    still_serves,
    whole,
)
from tests.integration.gateway.probing import MOST_STALL_SECONDS, probing
from tests.kit.raw_engine import DONE, EVENT, STREAM_HEAD, EngineSide, raw_engine
from tests.kit.raw_engine import whole as answer_of
from tests.kit.raw_http import LAST_CHUNK, RawConnection, chunk, connected
from tests.kit.waiting import until

WINDOW_SECONDS = 1.0
PIECE = chunk(EVENT.replace(b'"w"', b'"' + b"w" * 65_536 + b'"'))
MOST_WINDOWS = 15
"""Within one or two, on a quiet machine."""


async def takes(connection: RawConnection, size: int, pause: float) -> None:
    """So many bytes, a pause, and again, until the other side has had enough."""
    with suppress(ConnectionError):
        taken = STREAM_HEAD
        while taken:
            taken = await connection.take(size)
            await asyncio.sleep(pause)


async def test_a_stalled_reader_is_cut_and_a_slow_reader_is_not(opened: Opened) -> None:
    enough = asyncio.Event()

    async def play(side: EngineSide) -> None:
        if b'"stream"' not in engine.requests[-1]:
            await side.send(answer_of())
            return
        await side.send(STREAM_HEAD)
        while not enough.is_set():
            await side.send(PIECE)
        await side.send(chunk(DONE), LAST_CHUNK)

    async with raw_engine(play) as engine:
        front = await opened(f'write_timeout = "{WINDOW_SECONDS:g}s"', room=3)
        await front.machine("m1", "ready", engine.base_url)
        await front.machine("m2", "asleep")
        await still_serves(front)
        before = peak_memory(front)
        async with (
            connected(front.url) as reader,
            connected(front.url) as crumbs,
            connected(front.url, receive_buffer=2048) as narrow,
            probing(front) as probe,
        ):
            for connection in (reader, crumbs, narrow):
                await connection.send(whole(front, STREAM))
                assert await connection.take(12) == b"HTTP/1.1 200"
            following = asyncio.create_task(send_request(front, whole(front, BODY)))
            reading = [
                asyncio.create_task(takes(connection, size, pause))
                for connection, size, pause in ((reader, 65_536, 0.1), (crumbs, 1, 0.1), (narrow, 200, 0.2))
            ]
            try:
                assert (await following).status == 200, "its turn came once one of the others had lost its place"
                await until(lambda: front.metric("in_flight"), lambda running: running <= 1)
                await until(lambda: asyncio.sleep(0, engine.open), lambda kept: kept <= 2)
                cut = [event for event in await front.usage(4) if event.streamed]
                assert [event.outcome for event in cut] == ["client_closed"] * 2
                assert max(event.duration for event in cut) < MOST_WINDOWS * WINDOW_SECONDS
                await asyncio.sleep(WINDOW_SECONDS)
                assert await front.metric("in_flight") == 1, "who reads on has its place"
            finally:
                await cancel_and_wait(reading)
            enough.set()
            await reader.until(DONE)
        assert (await front.usage(5))[-1].outcome == "completed"
        assert probe.longest < MOST_STALL_SECONDS
        assert peak_memory(front) - before < 20 * MEGABYTE
