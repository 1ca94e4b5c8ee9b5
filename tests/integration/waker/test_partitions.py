"""A leader that is cut off or paused beyond its lease: the standby acts, and never both for one machine."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from shared.bus.jetstream import JetStreamBus
from tests.integration.waker.cluster import House, built, one_engine_at_a_time
from tests.kit.bus_proxy import bus_proxy
from tests.kit.service import ServiceProcess
from tests.kit.waiting import PATIENCE_SECONDS, until


def pid(service: ServiceProcess) -> int:
    assert service.process is not None
    return service.process.pid


async def served_once(house: House) -> None:
    """Both wakers are back: what is called now is called by one of them, once for each wake."""
    starts = house.lives(word="start")
    one_engine_at_a_time(house.lives())
    path = await house.path()
    assert path.count("waking") == len(starts) == 1, (path, starts)
    record = await house.record()
    assert record is not None
    assert record.state == "ready"


async def test_a_leader_that_is_cut_off_leaves_the_machine_to_the_next(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    async with bus_proxy(nats_url) as cut, built(bus, nats_url, tmp_path) as house:
        await house.gateway()
        cut_off = await house.waker(cut.url)
        standby = await house.waker()
        before = await house.leader()
        # In the middle of a wake: what it wrote is on record, whether its call was made nobody knows.
        async with house.at(lambda record: record.phase == "calling", cut.whole.clear) as done:
            asking = asyncio.create_task(house.ask())
            await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
            await house.led_by(standby)
            await asking
        after = await house.leader()
        assert after != before
        cut.whole.set()
        await asyncio.sleep(3.0)  # its old messages go out now, and the server's answers come in
        assert cut_off.process is not None
        assert cut_off.process.returncode is None
        assert await house.leader() == after
        await served_once(house)


async def test_a_leader_that_was_paused_finds_out_before_it_acts(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    async with built(bus, nats_url, tmp_path) as house:
        await house.gateway()
        paused = await house.waker()
        standby = await house.waker()
        async with house.at(
            lambda record: record.phase == "calling", lambda: os.kill(pid(paused), signal.SIGSTOP)
        ) as done:
            asking = asyncio.create_task(house.ask())
            await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
            try:
                await house.led_by(standby)
                await asking
            finally:
                os.kill(pid(paused), signal.SIGCONT)
        await asyncio.sleep(3.0)  # it reads what lay in its sockets, and acts on it if it ever does
        await served_once(house)


@pytest.mark.long
async def test_what_a_paused_leader_meant_to_stop_is_not_stopped_under_the_next(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    """It was about to put the machine to sleep; meanwhile requests came, and another leader kept it awake."""
    async with built(bus, nats_url, tmp_path, idle="3s", waker='gateway_timeout = "4s"') as house:
        await house.gateway()
        paused = await house.waker()
        standby = await house.waker()
        await house.ask()
        async with house.at(
            lambda record: record.state == "draining", lambda: os.kill(pid(paused), signal.SIGSTOP)
        ) as done:
            await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
            try:
                asking = asyncio.create_task(house.ask(streamed=True))
                await house.led_by(standby)
                await asking
                since = time.time()
            finally:
                os.kill(pid(paused), signal.SIGCONT)
        for _ in range(10):
            await house.ask(streamed=True)
            await asyncio.sleep(0.2)
        assert not [line for line in house.lives(word="term") if line.at >= since]
        one_engine_at_a_time(house.lives())
        await until(lambda: asyncio.sleep(0, house.lives(word="end")), lambda ends: len(ends) == 1)
        assert len(house.lives(word="start")) == 1
