"""Connections are bounded in total, per address and by the files that the system allows; who is idle makes room."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import (
    MEGABYTE,
    Opened,
    goes_on,
    own_error,
    peak_memory,
    send_request,
    still_serves,
    whole,
)
from tests.integration.gateway.probing import MOST_STALL_SECONDS
from tests.kit.raw_http import RawConnection, connected, head
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until

OTHER = "127.0.0.2"
"""Another address of this machine."""
FILES = 400


async def turned_away(front: Front, source: str = "") -> bool:
    """Whether one more is told that there are too many, or is closed; false: it is served."""
    async with connected(front.url, source) as connection:
        try:
            await connection.send(head("GET", "/health"))
            answer = await connection.answer()
        except ConnectionError:
            return True
        if answer is None:
            return True
        if answer.status == 200:
            return False
        assert own_error(answer) == "503 too_many_connections"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["connection"] == "close"
        return True


async def keeps_sending(connection: RawConnection) -> bool:
    """Whether it is served, rather than closed."""
    try:
        await connection.send(head("GET", "/health"))
        answer = await connection.answer()
    except ConnectionError:
        return False
    return answer is not None and answer.status == 200


@asynccontextmanager
async def holding(front: Front, count: int, source: str = "") -> AsyncIterator[list[RawConnection]]:
    """So many connections with a held request each."""
    before = await front.metric("waiting")
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(front.url, source)) for _ in range(count)]
        for connection in connections:
            await connection.send(whole(front))
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == before + count)
        yield connections


async def test_the_longest_idle_connection_makes_room(opened: Opened) -> None:
    front = await opened("max_connections = 4\nmax_connections_per_address = 4")
    async with AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(front.url)) for _ in range(4)]
        for number in (0, 1, 2, 3, 0):
            assert await keeps_sending(idle[number])
        for gone in (1, 2, 3):
            new = await stack.enter_async_context(connected(front.url))
            assert await keeps_sending(new)
            assert await idle[gone].until_end() == b"", "the one that has asked nothing for the longest"
        assert await keeps_sending(idle[0])
        silent = [await stack.enter_async_context(connected(front.url)) for _ in range(40)]
        assert await silent[0].until_end() == b"", "one that has never asked is idle too"
        assert not await turned_away(front)
    await until(lambda: front.metric("connections"), lambda count: count == 0)


async def test_busy_connections_stay_and_a_new_one_is_closed(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened("max_connections = 3\nmax_connections_per_address = 3")
    async with holding(front, 3) as held:
        assert [await turned_away(front) for _ in range(5)] == [True] * 5
        assert await front.metric("waiting") == 3
        held.pop().close()

        async def turned() -> bool:
            return await turned_away(front)

        await until(turned, lambda refused: not refused)
        await front.machine("m1", "ready", scripted_engine.base_url)
        for connection in held:
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 200
            await goes_on(connection, front)


async def test_one_address_leaves_connections_to_others(opened: Opened) -> None:
    front = await opened("max_connections = 6")
    async with connected(front.url, OTHER) as client, holding(front, 2):
        assert await keeps_sending(client)
        async with holding(front, 1):
            assert await turned_away(front)
            assert not await turned_away(front, OTHER)
        async with AsyncExitStack() as stack:
            for _ in range(20):
                await stack.enter_async_context(connected(front.url))
            assert not await turned_away(front), "its own idle ones make room"
            assert await keeps_sending(client), "and nobody else's"


async def test_idle_connections_never_take_the_last_files(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(room=64, files=FILES)
    before = peak_memory(front)
    async with AsyncExitStack() as stack:
        for _ in range(2 * FILES):
            await stack.enter_async_context(connected(front.url))
        await front.machine("m1", "ready", scripted_engine.base_url)
        await front.machine("m2", "asleep")
        await front.seen()
        began = time.monotonic()
        answers = await asyncio.gather(*(send_request(front, whole(front)) for _ in range(20)))
        assert time.monotonic() - began < MOST_STALL_SECONDS
        assert {answer.status for answer in answers} == {200}
        assert await front.ready() == (200, {})
        assert {event.outcome for event in await front.usage(20)} == {"completed"}
        assert await front.metric("answers_total", code="outbox_full") == 0
        assert peak_memory(front) - before < 20 * MEGABYTE


@pytest.mark.long
async def test_held_requests_leave_enough_file_descriptors_to_serve_them(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened(room=FILES, files=FILES)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(front.url)) for _ in range(FILES)]
        asking = [asyncio.create_task(outcome(connection, whole(front))) for connection in connections]
        held = await until(lambda: front.metric("waiting"), lambda waiting: waiting + ended(asking) == FILES)
        await front.machine("m1", "ready", scripted_engine.base_url)
        reported = await asyncio.gather(*asking)
        assert set(reported) <= {"200", "503 too_many_connections", "closed"}
        assert reported.count("200") == held > 20
        assert len(await front.usage(int(held))) == held
        assert await front.metric("failovers_total") == await front.metric("machines_left_alone") == 0
        assert await front.ready() == (200, {})
        await still_serves(front)


def ended(tasks: list[asyncio.Task[str]]) -> int:
    return sum(task.done() for task in tasks)


async def outcome(connection: RawConnection, sent: bytes) -> str:
    with suppress(ConnectionError):
        await connection.send(sent)
        answer = await connection.answer()
        if answer is not None:
            return "200" if answer.status == 200 else own_error(answer)
    return "closed"
