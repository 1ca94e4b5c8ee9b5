"""`max_concurrency` holds for all gateways together, and any of them can use what the others leave."""

import asyncio

import pytest

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import STREAM, Opened, send_request, whole
from tests.integration.gateway.test_without_bus import know_each_other
from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.waiting import until


async def two_gateways(opened: Opened, engine: ScriptedEngine, room: int) -> list[Front]:
    fronts = [await opened(room=room), await opened(folder="second", room=room)]
    await fronts[0].machine("m1", "ready", engine.base_url)
    await fronts[0].seen(2)
    await know_each_other(fronts[0])
    return fronts


async def test_an_engine_never_has_more_than_max_concurrency_from_two_gateways(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    fronts = await two_gateways(opened, scripted_engine, room=4)
    scripted_engine.default = Script(tokens=3, hold_after=2)
    requests = [asyncio.create_task(send_request(front, whole(front, STREAM))) for front in fronts for _ in range(8)]

    async def places() -> tuple[float, float]:
        return (
            sum([await front.metric("in_flight") for front in fronts]),
            sum([await front.metric("waiting") for front in fronts]),
        )

    await until(places, lambda counts: counts == (4, 12))
    assert len(scripted_engine.requests) == 4
    scripted_engine.release()
    assert {(await request).status for request in requests} == {200}


@pytest.mark.parametrize("at", [0, 1])
async def test_either_gateway_can_use_all_of_a_machine(
    opened: Opened, scripted_engine: ScriptedEngine, at: int
) -> None:
    front = (await two_gateways(opened, scripted_engine, room=3))[at]
    scripted_engine.default = Script(tokens=3, hold_after=2)
    requests = [asyncio.create_task(send_request(front, whole(front, STREAM))) for _ in range(3)]
    await until(lambda: front.metric("in_flight"), lambda count: count == 3)
    scripted_engine.release()
    assert {(await request).status for request in requests} == {200}
