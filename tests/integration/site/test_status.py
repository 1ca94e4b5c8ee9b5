"""The status page, with a fleet on the bus."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.bus.memory import MemoryBus
from shared.bus.subjects import WAKER_LEASE, activity, machine_key
from shared.bus.topology import FLEET, LEASES
from shared.messages.codec import encode
from shared.messages.gateway import Activity
from shared.messages.waker import MachineRecord, MachineState
from tests.kit.site import running_site

NOW = 1_800_000_000.0
CONFIG = """
[site]
port = 0
[[tier]]
name = "h100x2"
provider = "static"
[[machine]]
id = "m1"
tier = "h100x2"
endpoint = "http://10.9.8.7:8000"
"""


class Scene:
    """A fleet of one machine, and the site."""

    def __init__(self, client: aiohttp.ClientSession, bus: MemoryBus) -> None:
        self.client = client
        self.bus = bus

    async def publish(self, state: MachineState, **fields: Any) -> None:
        record = MachineRecord(
            machine="m1",
            tier="h100x2",
            state=state,
            provider_state="running",
            endpoint="http://10.9.8.7:8000",
            generation=1,
            since=NOW - 60,
            reason="because of key-1",
            **fields,
        )
        await self.bus.put(FLEET, machine_key("m1"), encode(record))
        await self.bus.put(LEASES, WAKER_LEASE, b"waker-1")
        report = Activity(gateway="gw", sent_at=NOW, machines={})
        await self.bus.publish_volatile(activity("gw"), encode(report))

    async def page(self, path: str = "/status") -> str:
        async with self.client.get(path) as response:
            assert response.status == 200
            return await response.text()

    async def status(self) -> dict[str, Any]:
        async with self.client.get("/status.json") as response:
            answer: dict[str, Any] = await response.json()
            return answer


@pytest.fixture
async def scene(tmp_path: Path) -> Any:
    bus = MemoryBus()
    async with running_site(tmp_path, CONFIG, bus, now=lambda: NOW) as url, aiohttp.ClientSession(url) as client:
        yield Scene(client, bus)


async def test_status_shows_a_wake_with_its_phase_and_eta(scene: Scene) -> None:
    await scene.publish("waking", phase="loading", ready_in=142.0, ready_at=NOW + 9999)
    page = await scene.page()
    assert "loading" in page
    assert "ready in about 2 min 2" in page
    (tier,) = (await scene.status())["tiers"]
    assert tier["condition"] == "waking"
    assert tier["machines"] == [{"state": "waking", "machines": 1}]
    assert tier["gate"] == "open"


async def test_status_shows_neither_machine_nor_endpoint_nor_reason(scene: Scene) -> None:
    await scene.publish("ready")
    for path in ("/status", "/status.json", "/", "/index.json"):
        shown = await scene.page(path)
        assert "ready" in shown
        for secret in ("m1", "10.9.8.7", "key-1", "waker-1"):
            assert secret not in shown, path


async def test_yesterdays_green_does_not_stay_green(scene: Scene) -> None:
    await scene.publish("ready")
    scene.bus.view_age = 31.0
    assert "Not known." in await scene.page()
    assert (await scene.status())["tiers"][0]["condition"] == "not_known"


async def test_status_is_not_known_while_nobody_leads(scene: Scene) -> None:
    await scene.publish("ready")
    await scene.bus.delete(LEASES, WAKER_LEASE)
    assert (await scene.status())["tiers"][0]["condition"] == "not_known"
    assert "Nobody reports" in await scene.page("/")


async def test_status_is_not_known_without_the_bus(scene: Scene) -> None:
    await scene.publish("ready")
    scene.bus.connected = False
    assert "Not known." in await scene.page()
