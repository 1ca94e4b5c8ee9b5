"""Limits of a key's wakes, over two gateways and restarts: what is counted, and whom a limit stops."""

import asyncio
import json
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import WAKES
from shared.key_store import create_key
from shared.messages.codec import decode
from shared.messages.waker import KeyWakes
from tests.integration.waker.cluster import Cluster, built
from tests.kit.raw_http import connected, head
from tests.kit.waiting import PATIENCE_SECONDS, until


@dataclass
class Reply:
    status: int
    code: str
    headers: dict[str, str]


async def ask(
    cluster: Cluster, key: str, *, model: str = "m1", gateway: int = 0, wake_timeout: str | None = None
) -> Reply:
    body = json.dumps({"model": model, "messages": []}).encode()
    lines = [f"Authorization: Bearer {key}", f"Content-Length: {len(body)}"]
    lines += [f"X-Wake-Timeout: {wake_timeout}"] if wake_timeout else []
    async with connected(cluster.gateways[gateway].announced.url) as connection:
        await connection.send(head("POST", "/v1/chat/completions", *lines) + body)
        answer = await connection.answer(seconds=PATIENCE_SECONDS)
    assert answer is not None
    content = json.loads(answer.body)
    return Reply(answer.status, content.get("error", {}).get("code", ""), answer.headers)


async def wakes(bus: JetStreamBus, key_id: str) -> KeyWakes | None:
    entry = await bus.get(WAKES, subjects.key_wakes_key(key_id))
    return decode(entry.value, KeyWakes) if entry else None


async def test_a_key_causes_so_many_wakes_and_is_served_by_machines_that_are_awake(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    waker = 'gateway_timeout = "4s"\nmin_awake = "0s"'
    async with built(bus, nats_url, tmp_path, machines=2, idle="1h", waker=waker) as cluster:
        key_id, key = await create_key(bus, name="few", wakes_per_hour=1)
        for _ in range(2):
            await cluster.gateway()
        await cluster.waker()
        burst = [ask(cluster, key, gateway=number % 2) for number in range(20)]
        assert [reply.status for reply in await asyncio.gather(*burst)] == [200] * 20
        seen = await wakes(bus, key_id)
        assert seen is not None
        assert seen.wakes == 1, "one burst over two gateways is one wake"

        async def refused(gateway: int) -> Reply:
            return await ask(cluster, key, model="m2", gateway=gateway, wake_timeout="0")

        for gateway in range(2):
            reply = await until(partial(refused, gateway), lambda reply: reply.status == 429)
            assert (reply.code, reply.headers["retry-after"]) == ("rate_limit_exceeded", "60")
        await cluster.wakers[0].kill9()
        await cluster.waker()
        await cluster.gateway()
        reply = await ask(cluster, key, model="m2", gateway=2)
        assert (reply.status, reply.code) == (429, "rate_limit_exceeded"), "neither restart forgets it"
        assert (await ask(cluster, key, gateway=2)).status == 200, "a machine that is awake serves it"
        assert (await cluster.record("m2")).state == "asleep"  # type: ignore[union-attr]  # it was seen
        assert await cluster.ask("m2", gateway=2), "and another key wakes what it may not"


@pytest.mark.long
async def test_a_machine_that_is_woken_again_and_again_for_nobody_costs_its_key_a_bounded_amount(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    waker = 'gateway_timeout = "4s"\nmin_awake = "0s"'
    async with built(bus, nats_url, tmp_path, idle="1h", waker=waker) as cluster:
        cluster.text = cluster.text.replace('idle_timeout = "1h"', 'idle_timeout = "1h"\nprice_per_hour = "3600"')
        key_id, key = await create_key(bus, name="idler", wake_cost_per_day=Decimal("0.01"))
        await cluster.gateway()
        await cluster.waker()
        assert (await ask(cluster, key, wake_timeout="0")).code == "waking"
        await cluster.reaches("m1", "ready")
        await cluster.reaches("m1", "asleep")
        seen = await until(lambda: wakes(bus, key_id), lambda seen: seen is not None and seen.cost > 0)
        assert seen is not None
        assert seen.wakes == 1
        reply = await until(lambda: ask(cluster, key, wake_timeout="0"), lambda reply: reply.status == 429)
        assert (reply.code, reply.headers["x-should-retry"]) == ("insufficient_quota", "false")
        assert (await cluster.record()).state == "asleep"  # type: ignore[union-attr]  # it was seen
