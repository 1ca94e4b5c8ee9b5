"""How a gateway answered reaches the bus, whatever ends it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp
import pytest

from services.gateway.adapters import response_reporter
from shared.bus.provision import provision
from shared.bus.topology import RESPONSES
from shared.messages.codec import decode
from shared.messages.responses import HourResponses
from spotinference.outbox.command import outbox_folders
from tests.integration.gateway.conftest import MODEL, Front
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]


Sums = Counter[tuple[str, int, str]]


def total(messages: Iterable[bytes]) -> Sums:
    """The responses of all boots and hours."""
    sums: Sums = Counter()
    for data in messages:
        for count in decode(data, HourResponses).counts:
            sums[count.model, count.status, count.code] += count.responses
    return sums


async def published(front: Front) -> Sums:
    return total([entry.value for entry in (await front.bus.entries(RESPONSES)).values()])


def kept(front: Front) -> Sums:
    return total([path.read_bytes() for path in files(front)])


async def ask(front: Front, model: str = MODEL) -> int:
    headers = {"Authorization": f"Bearer {front.key}", "X-Wake-Timeout": "0"}
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{front.url}/v1/chat/completions", json=body) as answer,
    ):
        await answer.read()
        return answer.status


def files(front: Front) -> list[Path]:
    return response_reporter.files_in(front.folder / "gateway" / "outbox")


async def test_responses_are_published_at_the_latest_when_the_gateway_ends(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    assert [await ask(front), await ask(front, "made-up")] == [503, 404]
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    assert await ask(front) == 200
    assert await front.service.stop() == 0
    expected = {(MODEL, 503, "waking"): 1, ("", 404, "model_not_found"): 1, (MODEL, 200, ""): 1}
    assert await published(front) == expected
    assert files(front) == []


async def test_responses_without_a_bus_outlive_kill_9_and_the_bus_s_data(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    nats_server.kill9()
    nats_server.lose_store()
    for _ in range(3):
        assert await ask(front) == 200
    await until(lambda: asyncio.sleep(0, kept(front)), lambda sums: sums == {(MODEL, 200, ""): 3})
    await front.service.kill9()
    assert front.folder / "gateway" / "outbox" in outbox_folders(front.folder)
    nats_server.start()
    await until(lambda: asyncio.sleep(0, front.bus.connected), bool)
    await provision(front.bus)
    await front.service.start()
    await until(lambda: published(front), lambda sums: sums == {(MODEL, 200, ""): 3})
    await until(lambda: asyncio.sleep(0, files(front)), lambda left: left == [])


@pytest.mark.parametrize("left", [b"", b"{}"])
async def test_a_file_that_is_none_is_no_obstacle(opened: Opened, tmp_path: Path, left: bytes) -> None:
    folder = tmp_path / "data" / "gateway" / "outbox"
    folder.mkdir(parents=True)
    (folder / "x.responses").write_bytes(left)
    front = await opened()
    await until(lambda: asyncio.sleep(0, files(front)), lambda there: there == [])
    assert await ask(front) == 503
    assert await front.service.stop() == 0
    assert await published(front) == {(MODEL, 503, "waking"): 1}
