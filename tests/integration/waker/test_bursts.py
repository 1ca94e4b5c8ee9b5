"""A burst against a sleeping model: one start, whatever the number of requests and gateways; nobody is forgotten."""

import asyncio
from pathlib import Path

from bench.processes import raise_limits
from shared.bus.jetstream import JetStreamBus
from tests.integration.waker.cluster import built, one_engine_at_a_time

REQUESTS = 1000
GATEWAYS = 3


async def test_a_thousand_requests_at_three_gateways_are_one_start(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    raise_limits()
    async with built(bus, nats_url, tmp_path, "--load", "3") as cluster:
        for _ in range(GATEWAYS):
            await cluster.gateway()
        await cluster.waker()
        requests = [
            cluster.ask(gateway=number % GATEWAYS, streamed=number % 2 == 0, seconds=200.0)
            for number in range(REQUESTS)
        ]
        await asyncio.gather(*requests)
        assert await cluster.calls("start") == ["accepted"]
        assert await cluster.path() == ["asleep", "waking", "ready"]
        assert len(cluster.lives(word="start")) == 1
        one_engine_at_a_time(cluster.lives())
