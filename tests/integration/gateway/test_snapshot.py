"""A gateway that starts while the bus is absent serves from its snapshot."""

import asyncio
import json
from pathlib import Path

import openai
import pytest

from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import Opened
from tests.integration.gateway.test_gateway import ASK, text_of
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until

ANSWER = " w1 w2 w3 w4 w5"


def snapshot(front: Front) -> Path:
    return front.folder / "gateway" / "snapshot"


async def saved(front: Front) -> None:
    """Return once the snapshot has the key and the machine."""

    async def contents() -> bytes:
        return b"".join(file.read_bytes() for file in snapshot(front).glob("*.*") if file.suffix != ".new")

    await until(contents, lambda data: front.key_id.encode() in data and b'"ready"' in data)
    assert front.key.encode() not in await contents()
    named = {view["file"] for view in json.loads((snapshot(front) / "index.json").read_bytes())["views"].values()}
    await until(lambda: asyncio.sleep(0, len(list(snapshot(front).iterdir()))), lambda count: count == len(named) + 1)


async def restarted(front: Front) -> openai.AsyncOpenAI:
    """Kill and start the gateway; return a client of its new port."""
    await front.service.kill9()
    await front.service.start()
    return openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key=front.key, max_retries=0)


@pytest.mark.parametrize("absence", ["down", pytest.param("hanging", marks=pytest.mark.long)])
async def test_a_gateway_killed_during_an_outage_streams_again_and_loses_no_usage(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer, absence: str
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await saved(front)
    if absence == "down":
        nats_server.kill9()
    else:
        nats_server.freeze()
    async with await restarted(front) as sdk:
        assert await text_of(await sdk.chat.completions.create(**ASK, stream=True)) == ANSWER
        assert (await front.ready())[0] == 200
        with pytest.raises(openai.AuthenticationError):
            await sdk.with_options(api_key="sk-unknown").models.list()
        if absence == "down":
            nats_server.start()
        else:
            nats_server.thaw()
        await until(lambda: asyncio.sleep(0, front.bus.connected), bool)
        (event,) = await front.usage(1)
        assert event.key_id == front.key_id
        _, created = await front.mint()
        await front.knows(created)
        assert (await front.ready())[0] == 200


@pytest.mark.long
async def test_a_gateway_started_from_a_snapshot_is_ready_no_longer_than_one_that_went_on(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer
) -> None:
    front = await opened('unready_without_bus = "1s"')
    await front.machine("m1", "ready", scripted_engine.base_url)
    await saved(front)
    nats_server.kill9()
    async with await restarted(front) as sdk:
        _, faults = await until(front.ready, lambda answer: answer[0] == 503)
        assert "longer than this gateway's 1 s" in faults["bus"]
        assert (await sdk.chat.completions.create(**ASK)).choices[0].message.content == ANSWER


@pytest.mark.long
async def test_a_snapshot_older_than_max_view_age_is_rejected(opened: Opened, nats_server: NatsServer) -> None:
    front = await opened()
    await front.machine("m1", "ready", "http://127.0.0.1:9")
    await saved(front)
    nats_server.kill9()
    await front.service.kill9()
    index = snapshot(front) / "index.json"
    content = json.loads(index.read_bytes())
    content["views"]["keys"]["current_at"] -= 300
    index.write_text(json.dumps(content))
    starting = asyncio.create_task(front.service.start())
    await until(lambda: asyncio.sleep(0, front.service.log.read_text()), lambda text: "snapshot_rejected" in text)
    assert not starting.done()
    nats_server.start()
    await starting
    assert (await front.ready())[0] == 200
