"""The leader is killed while its machine is in each state: the standby goes on, and does nothing a second time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Received
from shared.bus.topology import FLEET
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, MachineActivity
from shared.messages.waker import MachineRecord, WakerCommand, WakerReply
from tests.integration.waker.cluster import Cluster, built, one_engine_at_a_time
from tests.kit.waiting import PATIENCE_SECONDS, until

SOON = 'gateway_timeout = "4s"'


@asynccontextmanager
async def two_wakers(
    bus: JetStreamBus, nats_url: str, folder: Path, *engine: str, idle: str = "1h"
) -> AsyncIterator[Cluster]:
    """One gateway; the first waker leads, the second stands by."""
    async with built(bus, nats_url, folder, *engine, idle=idle, waker=SOON) as cluster:
        await cluster.gateway()
        await cluster.waker()
        await cluster.waker()
        yield cluster


def kill(cluster: Cluster) -> Callable[[], None]:
    def now() -> None:
        process = cluster.wakers[0].process
        assert process is not None
        process.kill()

    return now


async def taken_over(cluster: Cluster) -> None:
    await cluster.led_by(cluster.wakers[1])


@asynccontextmanager
async def slow_gateway(cluster: Cluster) -> AsyncIterator[asyncio.Event]:
    """A second gateway that does not let go of what drains until the event is set."""
    lets_go = asyncio.Event()

    async def speak() -> None:
        while True:
            entry = await cluster.bus.get(FLEET, subjects.machine_key("m1"))
            draining = entry is not None and decode(entry.value, MachineRecord).state == "draining"
            acknowledged = entry.revision if entry and draining and lets_go.is_set() else None
            uses = {"m1": MachineActivity(in_flight=0, acknowledged=acknowledged)}
            activity = Activity(gateway="slow", sent_at=time.time(), machines=uses)
            await cluster.bus.publish_volatile(subjects.activity("slow"), encode(activity))
            await asyncio.sleep(0.1)

    speaking = asyncio.create_task(speak())
    try:
        yield lets_go
    finally:
        speaking.cancel()


@asynccontextmanager
async def drain_reported(cluster: Cluster) -> AsyncIterator[asyncio.Event]:
    """Set once the cluster's own gateway sends nobody to m1 any more."""
    reported = asyncio.Event()

    async def on_activity(received: Received) -> None:
        activity = decode(received.data, Activity)
        if (
            activity.gateway != "slow"
            and "m1" in activity.machines
            and activity.machines["m1"].acknowledged is not None
        ):
            reported.set()

    listening = await cluster.bus.subscribe(subjects.ACTIVITIES, on_activity)
    try:
        yield reported
    finally:
        await listening.stop()


async def ordered(cluster: Cluster, order: str, target: str) -> None:
    command = WakerCommand(order=order, target=target, by="test")  # type: ignore[arg-type]  # one of the orders
    reply = decode(
        await cluster.bus.request(subjects.WAKER_COMMAND, encode(command), timeout=PATIENCE_SECONDS), WakerReply
    )
    assert reply.accepted, reply.error


async def test_waking_with_the_call_under_way(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with two_wakers(bus, nats_url, tmp_path) as cluster:
        async with cluster.at(lambda record: record.phase == "calling", kill(cluster)) as killed:
            asking = asyncio.create_task(cluster.ask())
            await asyncio.wait_for(killed.wait(), PATIENCE_SECONDS)
            await taken_over(cluster)
            await asking
        assert await cluster.path() == ["asleep", "waking", "ready"]
        # Whether the call had been made or not: one engine.
        assert len(cluster.lives(word="start")) == 1
        assert (await cluster.record()).generation in (1, 2)  # type: ignore[union-attr]  # it is there


@pytest.mark.long
async def test_waking_while_the_engine_loads(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with two_wakers(bus, nats_url, tmp_path, "--load", "8") as cluster:
        async with cluster.at(lambda record: record.phase == "loading", kill(cluster)) as killed:
            asking = asyncio.create_task(cluster.ask())
            await asyncio.wait_for(killed.wait(), PATIENCE_SECONDS)
            await taken_over(cluster)
            await asking
        assert await cluster.path() == ["asleep", "waking", "ready"]
        assert await cluster.calls("start") == ["accepted"]
        assert [line.word for line in cluster.lives()] == ["start", "ready"]


@pytest.mark.long
async def test_ready_and_the_idle_clock_goes_on(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with two_wakers(bus, nats_url, tmp_path, idle="12s") as cluster:
        await cluster.ask()
        await asyncio.sleep(1.0)  # so that the last use and the time of ready differ
        await cluster.ask()
        used = time.time()
        await asyncio.sleep(1.0)  # it is told within this
        await cluster.wakers[0].kill9()
        await taken_over(cluster)
        led = time.time()
        await cluster.reaches("m1", "asleep")
        (stopped,) = cluster.lives(word="term")
        assert stopped.at - used >= 11.9
        assert stopped.at - led < 12.0, "a clock that began anew would have taken longer"
        assert await cluster.path() == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]


@pytest.mark.long
async def test_draining_goes_on(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with two_wakers(bus, nats_url, tmp_path, idle="1s") as cluster, slow_gateway(cluster) as lets_go:
        await cluster.ask()
        async with cluster.at(lambda record: record.state == "draining", kill(cluster)) as killed:
            await asyncio.wait_for(killed.wait(), PATIENCE_SECONDS)
            await taken_over(cluster)
            assert not cluster.lives(word="term"), "nobody had let go of it"
            lets_go.set()
            await cluster.reaches("m1", "asleep")
        assert await cluster.path() == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]
        assert [line.word for line in cluster.lives()] == ["start", "ready", "term", "end"]


async def test_draining_is_called_off_by_who_comes_meanwhile(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with two_wakers(bus, nats_url, tmp_path, idle="1s") as cluster, slow_gateway(cluster):
        await cluster.ask()
        draining = cluster.at(lambda record: record.state == "draining", kill(cluster))
        async with drain_reported(cluster) as reported, draining as killed:
            await asyncio.wait_for(killed.wait(), PATIENCE_SECONDS)
            await asyncio.wait_for(reported.wait(), PATIENCE_SECONDS)
            await cluster.ask()
        assert (await cluster.path())[:5] == ["asleep", "waking", "ready", "draining", "ready"]
        assert [line.word for line in cluster.lives()] == ["start", "ready"]


async def test_stop_is_not_called_twice(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    """An engine that takes its time to end is told once; a second word would kill it."""
    async with two_wakers(bus, nats_url, tmp_path, "--end", "7", idle="1s") as cluster:
        await cluster.ask()
        await until(lambda: asyncio.sleep(0, cluster.lives(word="term")), bool)
        await cluster.wakers[0].kill9()
        await taken_over(cluster)
        await cluster.ask()  # it sleeps first, and is woken again then
        words = [line.word for line in cluster.lives()]
        assert words[:6] == ["start", "ready", "term", "end", "start", "ready"]
        one_engine_at_a_time(cluster.lives())


@pytest.mark.long
async def test_what_the_operator_woke_stays_awake(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with two_wakers(bus, nats_url, tmp_path, "--load", "1", idle="1s") as cluster:
        async with cluster.at(lambda record: record.phase == "loading", kill(cluster)) as killed:
            await ordered(cluster, "wake", "m1")
            await asyncio.wait_for(killed.wait(), PATIENCE_SECONDS)
            await taken_over(cluster)
        kept = await until(cluster.record, lambda seen: seen is not None and seen.kept)
        assert kept is not None
        # The one who follows next finds it so, and no order any more.
        await cluster.wakers[0].start()
        await cluster.wakers[1].kill9()
        await cluster.led_by(cluster.wakers[0])
        await asyncio.sleep(5.0)  # four of these it waits for gateways, and it has been idle for long
        record = await cluster.record()
        assert record is not None
        assert (record.state, record.kept) == ("ready", True)
        assert len(cluster.lives(word="start")) == 1


@pytest.mark.long
async def test_asleep_with_demand_just_published_and_kept_from_requests(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    async with two_wakers(bus, nats_url, tmp_path) as cluster:
        await ordered(cluster, "cordon", "m1")
        await cluster.wakers[0].kill9()
        asking = asyncio.create_task(cluster.ask())
        await taken_over(cluster)
        await asyncio.sleep(1.0)
        assert not cluster.lives()
        await ordered(cluster, "uncordon", "m1")
        await asking
        assert await cluster.path() == ["asleep", "waking", "ready"]
        assert len(cluster.lives(word="start")) == 1
