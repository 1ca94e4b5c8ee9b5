"""What the metrics of a waker that stands by say of the fleet: the same as the leader's, or that it does not know."""

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.waker.wiring import service
from shared.bus.memory import MemoryBus
from shared.config.load import parse
from shared.runtime.process import Runtime
from tests.kit.waiting import until

CONFIG = """
[waker]
probe_interval = "10ms"
[[tier]]
name = "lab"
provider = "static"
[[machine]]
id = "m1"
tier = "lab"
endpoint = "http://127.0.0.1:1"
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "m2"
tier = "local"
command = ["engine", "{port}"]
[[model]]
name = "m"
lineup = ["lab"]
"""


class Replica:
    """A waker whose process ends with its stack."""

    def __init__(self, bus: MemoryBus, folder: Path) -> None:
        self._runtime = Runtime(service="waker", config=parse(CONFIG, "test"), data_dir=folder, bus=bus, port=None)
        self.stack = AsyncExitStack()

    async def start(self) -> None:
        self.stack.push_async_callback(self._runtime.cancel_tasks)
        await self.stack.enter_async_context(service(self._runtime))

    def reload(self, config: str) -> None:
        assert self._runtime.on_reload is not None
        self._runtime.on_reload(parse(config, "test"))

    def metric(self, name: str, **labels: str) -> float | None:
        return self._runtime.registry.get_sample_value(f"spot_waker_{name}", labels)

    async def shows(self, value: float, name: str, **labels: str) -> None:
        async def read() -> float | None:
            return self.metric(name, **labels)

        await until(read, lambda seen: seen == value)


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    bus = MemoryBus()
    leader, standby = Replica(bus, tmp_path), Replica(bus, tmp_path)
    async with leader.stack, standby.stack:
        await leader.start()
        await leader.shows(1, "leading")
        await standby.start()
        yield leader, standby


async def test_standby_shows_machines_and_alarms_as_the_leader_does(replicas: tuple[Replica, Replica]) -> None:
    leader, standby = replicas
    for replica in (leader, standby):
        await replica.shows(1, "machines", tier="lab", state="broken")
        await replica.shows(1, "alarms")
        await replica.shows(1, "alarm", machine="m1", reason="broken")
        assert [replica.metric("machines_always_on", tier=tier) for tier in ("lab", "local")] == [1, 0]
    assert standby.metric("leading") == 0
    for replica in (leader, standby):
        replica.reload(CONFIG.replace('"lab"', '"shed"'))
        await replica.shows(1, "machines_always_on", tier="shed")
        assert replica.metric("machines_always_on", tier="lab") is None


async def test_standby_marks_the_leaders_own_work_as_unknown(replicas: tuple[Replica, Replica]) -> None:
    leader, standby = replicas
    await leader.shows(0, "oldest_wake_seconds")
    await leader.shows(0, "provider_in_doubt", provider="process")
    oldest = standby.metric("oldest_wake_seconds")
    assert oldest is not None
    assert math.isnan(oldest)
    assert standby.metric("provider_in_doubt", provider="process") is None
    await leader.stack.aclose()
    await standby.shows(1, "leading")
    await standby.shows(0, "oldest_wake_seconds")
    await standby.shows(1, "machines", tier="lab", state="broken")
    gone = leader.metric("oldest_wake_seconds")
    assert gone is not None
    assert math.isnan(gone)
    assert leader.metric("provider_in_doubt", provider="process") is None
