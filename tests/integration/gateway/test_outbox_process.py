"""Usage outlives everything that can happen around a running gateway: what was answered whole is counted."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import openai
import pytest

from services.gateway.adapters.segments import load_segments
from shared.bus.provision import provision
from shared.bus.subjects import confirmed_key
from shared.bus.topology import METER
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Confirmed
from tests.integration.gateway.conftest import MODEL, Front
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
CLIENTS = 8


def on_disk(front: Front) -> list[UsageEvent]:
    """What a dead gateway left."""
    events = []
    for segments in load_segments(front.folder / "gateway" / "outbox").values():
        for segment in segments:
            offset = 0
            while offset < segment.durable_bytes:
                records, offset = segment.read(offset)
                events += [decode(record.payload, UsageEvent) for record in records]
    return events


def newest_file(front: Front) -> Path:
    return max((front.folder / "gateway" / "outbox").glob("*.log"), key=lambda path: path.stat().st_mtime_ns)


async def gauge(front: Front, name: str) -> float:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{front.service.announced.metrics_url}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"spot_gateway_outbox_{name} "))


async def served(front: Front, count: int) -> None:
    for _ in range(count):
        await front.sdk.with_options(base_url=f"{front.url}/v1").chat.completions.create(**ASK)  # type: ignore[call-overload]  # a dict of its arguments


async def confirm(front: Front, event: UsageEvent, up_to: int) -> None:
    """As the meter does."""
    mark = Confirmed(source=event.source, source_seq=up_to, at=1.0)
    await front.bus.put(METER, confirmed_key(event.source), encode(mark))


class Load:
    """Clients that ask again as soon as they are answered, each second one for a stream, until their gateway dies."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.received: set[str] = set()
        """Ids of the answers that came whole."""

    async def ask(self, *, streamed: bool) -> None:
        headers = {"Authorization": f"Bearer {self._front.key}"}
        url = f"{self._front.url}/v1/chat/completions"
        async with aiohttp.ClientSession(headers=headers) as session:
            try:
                while True:
                    async with session.post(url, json=ASK | {"stream": streamed}) as answer:
                        body = b""
                        async for part in answer.content.iter_any():
                            body += part
                            if body.endswith(b"data: [DONE]\n\n"):
                                break
                        assert answer.status == 200, body
                        self.received.add(answer.headers["x-request-id"])
            except aiohttp.ClientError:
                return

    async def until_killed(self, count: int) -> None:
        """Kill the gateway once so many answers were received, in the middle of whatever it does."""
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self.ask(streamed=number % 2 == 0))
            goal = len(self.received) + count
            await until(lambda: asyncio.sleep(0, len(self.received)), lambda received: received >= goal, seconds=30.0)
            await self._front.service.kill9()


async def test_a_complete_response_is_counted_whenever_the_gateway_is_killed(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=3)
    load = Load(front)
    for boot, count in enumerate((60, 1, 23), 1):
        await load.until_killed(count)
        written = on_disk(front)
        assert load.received <= {event.id for event in written}
        # What is lost is in flight: no more than the clients, each boot.
        assert len(scripted_engine.requests) - len(written) <= CLIENTS * boot
        await front.service.start()
    written = on_disk(front)
    published = await front.usage(len(written))
    assert {event.id for event in published} == {event.id for event in written}
    by_source: dict[str, list[int]] = {}
    for event in published:
        by_source.setdefault(event.source, []).append(event.source_seq)
    assert len(by_source) == 3
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in by_source.values())


async def test_a_bus_that_lost_its_data_gets_all_of_it_again(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await served(front, 5)
    first, *_ = await front.usage(5)
    await confirm(front, first, 2)
    await until(lambda: gauge(front, "pending"), lambda pending: pending == 3)
    nats_server.kill9()
    nats_server.lose_store()
    await served(front, 3)
    nats_server.start()
    await until(lambda: asyncio.sleep(0, front.bus.connected), bool)
    await provision(front.bus)
    assert sorted(event.source_seq for event in await front.usage(6)) == [3, 4, 5, 6, 7, 8]
    await confirm(front, first, 8)
    await until(lambda: gauge(front, "pending"), lambda pending: pending == 0)


async def test_a_full_outbox_rejects_requests_until_the_ledger_confirms(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened("outbox_max_bytes = 65536")
    await front.machine("m1", "ready", scripted_engine.base_url)
    with pytest.raises(openai.InternalServerError) as caught:
        await served(front, 300)
    assert (caught.value.status_code, caught.value.code) == (503, "outbox_full")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    status, faults = await front.ready()
    assert status == 503
    assert "65536 bytes" in faults["outbox"]
    assert await gauge(front, "bytes") >= 65536
    count = len(scripted_engine.requests)
    assert await gauge(front, "pending") == count
    first, *_ = await front.usage(count)
    await confirm(front, first, count)
    await until(front.ready, lambda answer: answer[0] == 200)
    await served(front, 1)
    assert await gauge(front, "pending") == 1


async def test_a_gateway_with_a_damaged_last_record_starts_and_sends_the_rest(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await served(front, 1)  # it knows the machine, and does without the bus now
    await front.usage(1)
    nats_server.kill9()
    await served(front, 3)
    await front.service.kill9()
    path = newest_file(front)
    path.write_bytes(path.read_bytes()[:-5])
    nats_server.start()
    await front.service.start()
    await until(lambda: asyncio.sleep(0, front.bus.connected), bool)
    assert [event.source_seq for event in await front.usage(3)] == [1, 2, 3]
    assert "damaged" in front.service.log.read_text()
    await until(front.ready, lambda answer: answer[0] == 200)
    await served(front, 1)
    assert [event.source_seq for event in await front.usage(4)] == [1, 2, 3, 1]
