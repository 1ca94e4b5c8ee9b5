"""`spotinference fleet` on a real bus: once, as JSON for each change, and drawn on a terminal."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator

import pytest

from shared.bus.jetstream import JetStreamBus
from shared.bus.subjects import activity, machine_key
from shared.bus.topology import FLEET
from shared.fleet_watcher import SILENT_SECONDS
from shared.messages.codec import encode
from shared.messages.gateway import Activity, MachineActivity
from tests.integration.suite.conftest import Goes, Put, Shell
from tests.kit.nats_server import NatsServer
from tests.kit.terminal import terminal


class FakeGateway:
    """Reports its activity again and again."""

    def __init__(self, bus: JetStreamBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self.in_flight = 0

    async def report(self, *, leaving: bool = False) -> None:
        machines = {"m1": MachineActivity(in_flight=self.in_flight, last_used_at=time.time())}
        report = Activity(gateway=self._name, sent_at=time.time(), machines=machines, leaving=leaving)
        await self._bus.publish_volatile(activity(self._name), encode(report))

    async def run(self) -> None:
        while True:
            await self.report()
            await asyncio.sleep(0.2)


@pytest.fixture
async def gateways(bus: JetStreamBus) -> AsyncIterator[list[FakeGateway]]:
    fakes = [FakeGateway(bus, "g1"), FakeGateway(bus, "g2")]
    tasks = [asyncio.create_task(fake.run()) for fake in fakes]
    yield fakes
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_fleet_shows_records_and_requests(shell: Shell, put: Put, gateways: list[FakeGateway]) -> None:
    gateways[0].in_flight, gateways[1].in_flight = 2, 3
    await put("m2", "broken", reason="no answer", alarm="see to it", cordoned=True, generation=7)
    await put("m1", "waking", phase="booting", wake_id="w1", ready_at=time.time() + 1000, kept=True)
    reply = json.loads((await shell("fleet", "--json")).stdout)
    first, second = reply["machines"]
    assert (first["id"], first["state"], first["phase"], first["in_flight"]) == ("m1", "waking", "booting", 5)
    assert 980 < first["eta_seconds"] <= 1000
    assert (first["kept"], first["cordoned"], first["wake_id"], first["alarm"]) == (True, False, "w1", "")
    assert (second["id"], second["reason"], second["alarm"]) == ("m2", "no answer", "see to it")
    assert (second["kept"], second["cordoned"], second["generation"]) == (False, True, 7)
    assert second["eta_seconds"] is None
    assert "! m2: see to it" in (await shell("fleet")).stdout


async def test_watch_prints_a_line_for_each_change_until_ctrl_c(
    bus: JetStreamBus, goes: Goes, put: Put, gateways: list[FakeGateway], nats_server: NatsServer
) -> None:
    await put("m1", "asleep")
    going = await goes("fleet", "--watch", "--json")

    async def next_line() -> list[tuple[str, str, int]]:
        return [(m["id"], m["state"], m["in_flight"]) for m in json.loads(await going.line())["machines"]]

    assert await next_line() == [("m1", "asleep", 0)]
    await put("m1", "waking", phase="booting", ready_at=time.time() + 60)
    assert await next_line() == [("m1", "waking", 0)], "the gateways' repetitions are no change"
    await put("m2", "ready")
    assert await next_line() == [("m1", "waking", 0), ("m2", "ready", 0)]
    gateways[1].in_flight = 4
    assert await next_line() == [("m1", "waking", 4), ("m2", "ready", 0)]
    await bus.delete(FLEET, machine_key("m2"))
    assert await next_line() == [("m1", "waking", 4)]
    status, out, _ = await going.ctrl_c()
    assert (status, out) == (0, "")


async def test_requests_of_a_gateway_that_left_are_not_counted(bus: JetStreamBus, goes: Goes, put: Put) -> None:
    gateway = FakeGateway(bus, "g1")
    gateway.in_flight = 1
    await put("m1", "ready")
    going = await goes("fleet", "--watch", "--json")
    assert json.loads(await going.line())["machines"][0]["in_flight"] == 0
    await gateway.report()
    assert json.loads(await going.line())["machines"][0]["in_flight"] == 1
    await gateway.report(leaving=True)
    async with asyncio.timeout(SILENT_SECONDS * 0.9):
        assert json.loads(await going.line())["machines"][0]["in_flight"] == 0


async def test_requests_of_a_gateway_that_died_are_not_counted_for_long(
    goes: Goes, put: Put, bus: JetStreamBus
) -> None:
    gateway = FakeGateway(bus, "g1")
    gateway.in_flight = 1
    await put("m1", "ready")
    going = await goes("fleet", "--watch", "--json")
    await going.line()
    await gateway.report()
    assert json.loads(await going.line())["machines"][0]["in_flight"] == 1
    assert json.loads(await going.line())["machines"][0]["in_flight"] == 0


async def test_watch_redraws_the_terminal_at_each_change(
    put: Put, options: tuple[str, ...], gateways: list[FakeGateway], nats_server: NatsServer
) -> None:
    async with terminal(sys.executable, "-m", "spotinference", "fleet", "--watch", *options) as screen:
        await screen.wait_for_text("no machines on record")
        await put("m1", "waking", phase="booting", ready_at=time.time() + 3000)
        await screen.wait_for_text(r"m1 +lab +waking +\d+s +booting +49m5\ds +0 ")
        await screen.wait_for_text("49m5[0-6]s")  # it counts down with no news at all
        gateways[0].in_flight = 3
        await put("m1", "ready", alarm="see to it")
        await screen.wait_for_text(r"m1 +lab +ready +\d+s +3 ")
        await screen.wait_for_text("! m1: see to it")
        nats_server.kill9()
        await screen.wait_for_text("the bus does not answer")
        nats_server.start()
        await screen.wait_for_text(r"see to it\r+machine")
        assert await screen.send_ctrl_c() == 0
