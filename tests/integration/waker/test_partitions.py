"""A leader that is cut off or paused beyond its lease: the standby acts, and never both for one machine."""

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from shared.bus.jetstream import JetStreamBus
from tests.integration.waker.cluster import Cluster, built, one_engine_at_a_time
from tests.kit.bus_proxy import bus_proxy
from tests.kit.service import ServiceProcess
from tests.kit.waiting import PATIENCE_SECONDS, until


def pid(service: ServiceProcess) -> int:
    assert service.process is not None
    return service.process.pid


async def served_once(cluster: Cluster) -> None:
    """Both wakers are back: what is called now is called by one of them, once for each wake."""
    starts = cluster.lives(word="start")
    one_engine_at_a_time(cluster.lives())
    path = await cluster.path()
    assert path.count("waking") == len(starts) == 1, (path, starts)
    record = await cluster.record()
    assert record is not None
    assert record.state == "ready"


async def test_a_leader_that_is_cut_off_leaves_the_machine_to_the_next(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    async with bus_proxy(nats_url) as cut, built(bus, nats_url, tmp_path) as cluster:
        await cluster.gateway()
        cut_off = await cluster.waker(cut.url)
        standby = await cluster.waker()
        before = await cluster.leader()
        # In the middle of a wake: what it wrote is on record, whether its call was made nobody knows.
        async with cluster.at(lambda record: record.phase == "calling", cut.whole.clear) as done:
            asking = asyncio.create_task(cluster.ask())
            await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
            await cluster.led_by(standby)
            await asking
        after = await cluster.leader()
        assert after != before
        cut.whole.set()
        await asyncio.sleep(3.0)  # its old messages go out now, and the server's answers come in
        assert cut_off.process is not None
        assert cut_off.process.returncode is None
        assert await cluster.leader() == after
        await served_once(cluster)


async def test_a_leader_that_was_paused_finds_out_before_it_acts(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    async with built(bus, nats_url, tmp_path) as cluster:
        await cluster.gateway()
        paused = await cluster.waker()
        standby = await cluster.waker()
        async with cluster.at(
            lambda record: record.phase == "calling", lambda: os.kill(pid(paused), signal.SIGSTOP)
        ) as done:
            asking = asyncio.create_task(cluster.ask())
            await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
            try:
                await cluster.led_by(standby)
                await asking
            finally:
                os.kill(pid(paused), signal.SIGCONT)
        await asyncio.sleep(3.0)  # it reads what lay in its sockets, and acts on it if it ever does
        await served_once(cluster)


async def test_streams_of_a_gateway_that_is_cut_off_are_not_stopped(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    """The waker no longer hears of them: the engine says that it runs them."""
    async with (
        bus_proxy(nats_url) as cut,
        built(bus, nats_url, tmp_path, "--stream", "60", idle="1s", waker='gateway_timeout = "4s"') as cluster,
        aiohttp.ClientSession() as client,
    ):
        gateway = await cluster.gateway(cut.url)
        await cluster.waker()
        stream = await client.post(
            f"{gateway.announced.url}/v1/chat/completions",
            json={"model": "m1", "messages": [], "stream": True},
            headers={"Authorization": f"Bearer {cluster.key}"},
        )
        assert b"w0" in await stream.content.readuntil(b"}]}")
        cut.whole.clear()
        await until(
            cluster.record, lambda seen: seen is not None and seen.reason.startswith("its engine runs requests")
        )
        assert not cluster.lives(word="term")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await stream.content.readuntil(b"}]}")
        stream.close()


@pytest.mark.long
async def test_what_a_paused_leader_meant_to_stop_is_not_stopped_under_the_next(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    """It was about to put the machine to sleep; meanwhile requests came, and another leader kept it awake."""
    async with built(bus, nats_url, tmp_path, idle="3s", waker='gateway_timeout = "4s"') as cluster:
        await cluster.gateway()
        paused = await cluster.waker()
        standby = await cluster.waker()
        await cluster.ask()
        async with cluster.at(
            lambda record: record.state == "draining", lambda: os.kill(pid(paused), signal.SIGSTOP)
        ) as done:
            await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
            try:
                asking = asyncio.create_task(cluster.ask(streamed=True))
                await cluster.led_by(standby)
                await asking
                since = time.time()
            finally:
                os.kill(pid(paused), signal.SIGCONT)
        for _ in range(10):
            await cluster.ask(streamed=True)
            await asyncio.sleep(0.2)
        assert not [line for line in cluster.lives(word="term") if line.at >= since]
        one_engine_at_a_time(cluster.lives())
        await until(lambda: asyncio.sleep(0, cluster.lives(word="end")), lambda ends: len(ends) == 1)
        assert len(cluster.lives(word="start")) == 1
