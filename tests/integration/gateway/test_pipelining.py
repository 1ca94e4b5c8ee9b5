"""Clients that ask far ahead: in turn with all others, refused only so often, and not read behind one that is held."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import (
    BODY,
    MEGABYTE,
    PATH,
    STREAM,
    Opened,
    front_before,
    goes_on,
    own_error,
    peak_memory,
    send_request,
    still_serves,
    whole,
)
from tests.integration.gateway.probing import MOST_STALL_SECONDS, drop_all, flood, memory, probing
from tests.kit.raw_http import Answer, Cut, RawConnection, connected, head
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until

MOST_IN_TURN = 16 * 8
"""Answers of one connection before another's request, which itself takes a few iterations of the loop."""
MOST_REFUSED = 16
"""In a row, on one connection."""
FEW = 3
"""Mistakes that cost nobody the connection."""


async def logged_paths(front: Front, count: int) -> list[str]:
    """Of the log's lines of requests, once there are so many."""

    async def read() -> list[str]:
        lines = front.service.log.read_text("utf-8").rpartition("\n")[0].split("\n")
        reported = [json.loads(line) for line in lines if line.startswith("{")]
        return [line["path"] for line in reported if line["event"] == "request"]

    return await until(read, lambda results: len(results) >= count)


async def test_a_pipelining_client_takes_turns_with_all_others(opened: Opened) -> None:
    """All requests are there when the gateway looks, and those of the greedy one lie between those of the others."""
    front = await opened()
    count, others = 3000, 4
    listing, entry = (head("GET", at, f"Authorization: Bearer {front.key}") for at in ("/v1/models", "/v1/models/x"))
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(front.url)) for _ in range(others + 1)]
        for connection in connections:  # it is accepted
            await connection.send(head("GET", "/health"))
            assert (await answer_to(connection)).status == 200
        greedy = connections[others // 2]
        os.kill(front.service.announced.pid, signal.SIGSTOP)
        try:
            sending = [
                asyncio.create_task(connection.send(listing * count if connection is greedy else entry))
                for connection in connections
            ]
            await asyncio.sleep(0.05)  # as much as the system takes
        finally:
            os.kill(front.service.announced.pid, signal.SIGCONT)
        for connection in connections:
            if connection is not greedy:
                assert own_error(await answer_to(connection)) == "404 model_not_found"
        assert {(await answer_to(greedy)).status for _ in range(count)} == {200}
        await asyncio.gather(*sending)
    order = (await logged_paths(front, len(connections) + count + others))[len(connections) :]
    last = max(number for number, path in enumerate(order) if path == "/v1/models/x")
    assert last <= MOST_IN_TURN


async def answer_to(connection: RawConnection) -> Answer:
    answer = await connection.answer()
    assert answer is not None
    return answer


async def refusals(connection: RawConnection) -> list[Answer]:
    """All that come until the end, in whatever way it comes to one that still sends, or one too many."""
    results: list[Answer] = []
    with suppress(ConnectionError, Cut):
        while len(results) <= MOST_REFUSED and (answer := await connection.answer()) is not None:
            results.append(answer)
    return results


async def test_a_connection_that_earns_only_refusals_is_closed(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await front_before(opened, scripted_engine.base_url)
    key, length = f"Authorization: Bearer {front.key}", f"Content-Length: {len(BODY)}"
    wrong = head("POST", PATH, "Authorization: Bearer no", length) + BODY
    cases = {
        "401": [head("GET", "/v1/models")],
        "401 with a body": [wrong],
        "404": [head("GET", "/nothing")],
        "404 with a key": [head("GET", "/v1/models/none", key)],
        "400": [whole(front, b"{")],
        "all of them": [head("GET", "/nothing"), wrong, whole(front, b"{"), head("GET", "/v1/models")],
    }
    for name, requests in cases.items():
        async with connected(front.url) as connection:
            sending = asyncio.create_task(flood(connection, b"".join(requests * (400 // len(requests))), 10))
            results = await refusals(connection)
            sending.cancel()
            assert (name, {answer.status for answer in results} <= {400, 401, 404}) == (name, True)
            assert FEW < len(results) <= MOST_REFUSED, name
        async with connected(front.url) as connection:
            results = []
            while not results or results[-1].headers.get("connection") != "close":
                await connection.send(requests[len(results) % len(requests)])
                results.append(await answer_to(connection))
                assert len(results) <= MOST_REFUSED, name
            assert len(results) > FEW, name
            assert await connection.until_end() == b"", name
    assert scripted_engine.requests == []
    async with connected(front.url) as connection:  # a mistake or two cost nothing
        for _ in range(MOST_REFUSED):
            await connection.send(head("GET", "/v1/models") * FEW)
            for _ in range(FEW):
                assert own_error(await answer_to(connection)) == "401 invalid_api_key"
            await goes_on(connection, front)
    await still_serves(front)


@pytest.mark.long
async def test_a_flood_without_a_key_blocks_no_other_client(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    """Of what nobody refuses. A stall would cost an engine the time for its first byte, and it would be blamed."""
    front = await front_before(opened, scripted_engine.base_url, 'first_byte_timeout = "1s"')
    await still_serves(front)
    before, began = peak_memory(front), time.monotonic()
    async with connected(front.url) as connection, probing(front) as probe:
        attack = asyncio.create_task(flood(connection, head("GET", "/health") * 5000, 10))
        reading = asyncio.create_task(drop_all(connection))
        while not attack.done():
            assert (await send_request(front, whole(front))).status == 200
        connection.finish()
        await reading
        lasted = time.monotonic() - began
    assert probe.longest < max(0.5, lasted / 10)
    assert await front.metric("machines_left_alone") == await front.metric("failovers_total") == 0
    assert peak_memory(front) - before < 20 * MEGABYTE


CONNECTIONS, KEPT = 100, 5
MOST_HELD_BYTES = 40 * 1024
"""Of memory for a held request and its connection: twice what they take."""


@asynccontextmanager
async def held_with(front: Front, behind: bytes) -> AsyncIterator[list[RawConnection]]:
    """Held requests, and behind each of them what could be sent before its time."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(front.url)) for _ in range(CONNECTIONS)]
        for number, connection in enumerate(connections):
            await connection.send(whole(front, STREAM if number % 2 else BODY) + behind)
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == CONNECTIONS)
        yield connections


async def test_nothing_is_parsed_behind_a_request_that_is_held(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(room=256)
    key = f"Authorization: Bearer {front.key}"
    small = {"list": head("GET", "/v1/models", key), "model": head("GET", f"/v1/models/{MODEL}", key)}
    large = head("GET", "/v1/models", key, *(f"X-{number}: {'x' * 300}" for number in range(95)))
    order = ["list" if number.bit_count() % 2 else "model" for number in range(300)]
    behind = b"".join(small[what] for what in order) + large
    async with held_with(front, b""):
        pass
    await until(lambda: front.metric("waiting"), lambda waiting: waiting == 0)
    before = memory(front)
    async with probing(front) as probe, held_with(front, behind) as connections:
        sent_before = len(probe.waits)  # whoever reads on has read all of it some questions later
        await until(lambda: asyncio.sleep(0, len(probe.waits)), lambda answers: answers > sent_before + 50)
        taken, sent = peak_memory(front) - before, CONNECTIONS * len(behind)
        assert probe.longest < MOST_STALL_SECONDS
        assert taken < 3 * sent + CONNECTIONS * MOST_HELD_BYTES
        for connection in connections[KEPT:]:
            connection.close()
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == KEPT)
        await front.machine("m1", "ready", scripted_engine.base_url)
        for connection in connections[:KEPT]:
            assert (await answer_to(connection)).status == 200
            results = [await answer_to(connection) for _ in [*order, "list"]]
            assert [json.loads(answer.body)["object"] for answer in results] == [*order, "list"]
    assert [event.outcome for event in await front.usage(KEPT)] == ["completed"] * KEPT
