"""Machines that fail: one more try before the first byte, none after it, and a pause for one that fails on and on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import BODY, STREAM, own_error, send_request, whole
from tests.kit.ports import free_port
from tests.kit.raw_http import connected
from tests.kit.scripted_engine import Script, ScriptedEngine, scripted
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
DIES_IN_STREAM = Script(reset_after=3)


@asynccontextmanager
async def two_machines(
    opened: Opened, gateway: str = ""
) -> AsyncIterator[tuple[Front, ScriptedEngine, ScriptedEngine]]:
    """A gateway that knows of its first machine and of the second, which is taken where the first is not."""
    front = await opened(gateway)
    async with scripted() as first, scripted() as second:
        await front.machine("m1", "ready", first.base_url)
        await front.machine("m2", "ready", second.base_url)
        await front.seen()
        yield front, first, second


async def new_engine(front: Front, url: str) -> None:
    """The first machine has been asleep, and its engine is at `url` now."""
    await front.machine("m1", "asleep")
    await front.machine("m1", "ready", url)
    await front.seen()


async def test_every_failure_before_the_first_byte_moves_once(opened: Opened) -> None:
    async with two_machines(opened, 'first_byte_timeout = "2s"') as (front, first, second):
        for tried, script in enumerate(
            (Script(reset_after=0), Script(status=500), Script(status=503), Script(headers_after=60)), 1
        ):
            first.default = script
            await new_engine(front, first.base_url)
            answer = await send_request(front, whole(front, STREAM if tried % 2 else BODY))
            assert answer.status == 200
            assert (len(first.requests), len(second.requests)) == (tried, tried)
            assert second.requests[-1].headers["x-request-id"] == answer.headers["x-request-id"]
        await new_engine(front, f"http://127.0.0.1:{free_port()}")
        assert (await send_request(front, whole(front))).status == 200
        assert len(second.requests) == 5
        assert await front.metric("failovers_total") == 5
        events = await front.usage(5)
        assert [(event.machine, event.outcome, event.status) for event in events] == [("m2", "completed", 200)] * 5
        assert [event.source_seq for event in events] == [1, 2, 3, 4, 5]
        assert [event.moved_from for event in events] == ["m1"] * 4 + [None], "of the last one nothing was written"


async def test_failover_happens_once_and_never_after_the_first_byte(opened: Opened) -> None:
    async with two_machines(opened) as (front, first, second):
        first.default = second.default = Script(reset_after=0)
        answer = await send_request(front, whole(front))
        assert own_error(answer) == "502 upstream_unreachable"
        assert (len(first.requests), len(second.requests)) == (1, 1)
        first.default = second.default = Script(status=500, message="out of memory")
        answer = await send_request(front, whole(front))
        assert answer.status == 500
        assert answer.error["message"] == "out of memory", "the second engine's own words"
        assert (len(first.requests), len(second.requests)) == (2, 2)
        events = await front.usage(2)
        assert [(event.machine, event.outcome, event.status) for event in events] == [
            ("m2", "failed", 0),
            ("m2", "failed", 500),
        ]
        first.default, second.default = DIES_IN_STREAM, Script()
        await new_engine(front, first.base_url)
        answer = await send_request(front, whole(front, STREAM))
        assert answer.status == 200
        assert answer.body.endswith(b"}}\n\n")
        assert answer.body.count(b'"engine_lost"') == 1
        assert b"[DONE]" not in answer.body
        assert (len(first.requests), len(second.requests)) == (3, 2)
        assert await front.metric("failovers_total") == 2
        assert (await front.usage(3))[2].outcome == "engine_lost"


@pytest.mark.parametrize(
    ("script", "moves"),
    [(Script(status=500), True), (Script(reset_after=0), True), (DIES_IN_STREAM, False)],
    ids=["5xx", "reset", "in a stream"],
)
async def test_a_machine_that_fails_again_and_again_is_left_alone(
    opened: Opened, script: Script, *, moves: bool
) -> None:
    async with two_machines(opened) as (front, first, second):
        first.default = script
        for _ in range(3):
            answer = await send_request(front, whole(front, STREAM))
            assert answer.status == 200
            assert answer.body.endswith(b"[DONE]\n\n") == moves
        for _ in range(10):
            assert (await send_request(front, whole(front, STREAM))).body.endswith(b"[DONE]\n\n")
        assert len(first.requests) == 3
        assert len(second.requests) == 10 + 3 * moves
        assert await front.metric("machines_left_alone") == 1
        assert len(await front.usage(13)) == 13
        first.default = Script()
        await new_engine(front, first.base_url)
        assert (await send_request(front, whole(front))).status == 200
        assert len(first.requests) == 4, "what an earlier engine did is not the new one's fault"
        assert await front.metric("machines_left_alone") == 0


async def test_a_refusal_and_a_client_that_leaves_are_no_failures(opened: Opened) -> None:
    async with two_machines(opened) as (front, first, second):
        first.default = Script(status=429, retry_after="3", message="too busy")
        for _ in range(4):
            refused = await send_request(front, whole(front))
            assert (refused.status, refused.error["message"]) == (429, "too busy")
        first.default = Script(hold_after=0)
        for number in range(5, 9):
            async with connected(front.url) as connection:
                await connection.send(whole(front, STREAM))
                seen = await first.received(number)
            assert await seen.ended() == "left"
        first.default = Script(tokens=9, hold_after=3)
        for number in range(9, 13):
            async with connected(front.url) as connection:
                await connection.send(whole(front, STREAM))
                await connection.until(b"w2")
            assert await (await first.received(number)).ended() == "left"
        first.default = Script()
        assert (await send_request(front, whole(front))).status == 200
        assert (len(first.requests), len(second.requests)) == (13, 0)
        assert await front.metric("machines_left_alone") == 0
        assert await front.metric("failovers_total") == 0


async def test_the_only_machine_is_tried_however_often_it_failed(opened: Opened) -> None:
    front = await opened()
    async with scripted() as engine:
        engine.default = Script(reset_after=0)
        await front.machine("m1", "ready", engine.base_url)
        results = [own_error(await send_request(front, whole(front))) for _ in range(6)]
        assert results == ["502 upstream_unreachable"] * 6
        assert len(engine.requests) == 6, "where there is no other, leaving it alone would help nobody"
        engine.default = Script()
        assert (await send_request(front, whole(front))).status == 200
        assert await front.metric("machines_left_alone") == 0
        await until(lambda: asyncio.sleep(0, engine.running), lambda running: running == 0)


async def test_an_engine_s_key_is_replaced_without_a_restart(
    opened: Opened, scripted_engine: ScriptedEngine, tmp_path: Path
) -> None:
    path = tmp_path / "engine.key"
    path.write_text("sk-first")
    front = await opened(tier=f'key_file = "{path}"')
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()

    async def sent_key() -> str:
        assert (await send_request(front, whole(front))).status == 200
        return scripted_engine.requests[-1].headers["authorization"]

    assert await sent_key() == "Bearer sk-first"
    path.write_text("sk-second")
    await until(sent_key, lambda key: key == "Bearer sk-second")
    assert "sk-" not in front.service.log.read_text()
