"""Requests at random against an idle timeout of a second: machines wake and sleep all the time, and cut nobody off."""

import asyncio
import random
from pathlib import Path

import pytest

from shared.bus.jetstream import JetStreamBus
from tests.integration.waker.cluster import Cluster, built, one_engine_at_a_time

GATEWAYS = 3
MACHINES = 6
MOST_SECONDS_PER_CYCLE = 10.0
"""About one, with room for a busy machine."""


def cycles_of(cluster: Cluster) -> int:
    """How often a machine has woken again, of all machines together."""
    return sum(max(0, len(cluster.lives(machine, "start")) - 1) for machine in cluster.machines)


async def clients_of(cluster: Cluster, machine: str, cycles: int, chance: random.Random) -> None:
    """One after another and now and then several, most of them just when the machine begins to fall asleep."""
    while cycles_of(cluster) < cycles:
        together = chance.choice([1, 1, 1, 2, 5])
        await asyncio.gather(
            *(
                cluster.ask(machine, gateway=chance.randrange(GATEWAYS), streamed=chance.random() < 0.5)
                for _ in range(together)
            )
        )
        # From the last answer: drained after 1 s, acknowledged within 0.3 s, asleep soon afterwards.
        await asyncio.sleep(chance.choice([0.0, 0.9, *(chance.uniform(1.0, 2.0) for _ in range(6))]))


async def hammer(bus: JetStreamBus, nats_url: str, folder: Path, cycles: int) -> None:
    """Until the machines have woken again this often."""
    # A leader puts nobody to sleep before it has had the time to hear every gateway that there may be.
    soon = 'gateway_timeout = "4s"'
    often = "wakes_per_hour = 1000"  # one key's requests wake all of them
    async with built(
        bus, nats_url, folder, "--work", "0.2", machines=MACHINES, idle="1s", gateway=often, waker=soon
    ) as cluster:
        for _ in range(GATEWAYS):
            await cluster.gateway()
        await cluster.waker()
        chances = [random.Random(number) for number in range(MACHINES)]
        clients = zip(cluster.machines, chances, strict=True)
        async with asyncio.timeout(cycles * MOST_SECONDS_PER_CYCLE):
            await asyncio.gather(*(clients_of(cluster, machine, cycles, chance) for machine, chance in clients))
        for machine in cluster.machines:
            lines = cluster.lives(machine)
            one_engine_at_a_time(lines)
            starts = [line for line in lines if line.word == "start"]
            assert len({line.pid for line in starts}) == len(starts)
            path = await cluster.path(machine)
            assert path.count("waking") == len(starts), "a start for each wake, and no other"
        assert set(await cluster.calls("start")) == {"accepted"}


async def test_requests_at_random_are_all_answered_whole(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    await hammer(bus, nats_url, tmp_path, 6)


@pytest.mark.long
@pytest.mark.timeout(2400)
async def test_some_hundreds_of_cycles(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    await hammer(bus, nats_url, tmp_path, 200)
