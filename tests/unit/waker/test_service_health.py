"""A waker that has the lease and cannot lead says so, for as long as it lasts."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.waker.app.term_resources import TermResources
from services.waker.app.waker import Waker
from services.waker.wiring import service
from shared.bus.memory import MemoryBus
from shared.bus.topology import FLEET, Bucket
from shared.config.load import parse
from shared.errors import BusUnavailable
from shared.runtime.process import Runtime
from tests.kit.waiting import until

CONFIG = """
[[tier]]
name = "lab"
provider = "static"
[[machine]]
id = "m1"
tier = "lab"
endpoint = "http://127.0.0.1:1"
"""


class HalfDeadBus(MemoryBus):
    """One of its streams takes nothing, as after a full disk; it can be read."""

    dead = True

    async def create(self, bucket: Bucket, key: str, value: bytes) -> int:
        if bucket is FLEET and self.dead:
            raise BusUnavailable("create fleet/m1: nats: timeout")
        return await super().create(bucket, key, value)


async def test_a_fleet_that_cannot_be_written_is_a_fault_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.waker.app.waker.STEADY_S", 0.2)
    bus = HalfDeadBus()
    runtime = Runtime(service="waker", config=parse(CONFIG, "test"), data_dir=tmp_path, bus=bus, port=None)

    async def fault() -> str | None:
        return runtime.health.faults().get("fleet")

    async with AsyncExitStack() as stack:
        stack.push_async_callback(runtime.cancel_tasks)
        await stack.enter_async_context(service(runtime))
        text = await until(fault, lambda seen: seen is not None and "cannot lead" in seen)
        assert text is not None
        assert "create fleet/m1" in text
        bus.dead = False
        await until(fault, lambda seen: seen is None)


async def test_a_reload_that_changes_nothing_for_the_waker_begins_no_new_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloaded: list[TermResources] = []
    monkeypatch.setattr(Waker, "reload", lambda _waker, resources: reloaded.append(resources))
    runtime = Runtime(service="waker", config=parse(CONFIG, "test"), data_dir=tmp_path, bus=MemoryBus(), port=None)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runtime.cancel_tasks)
        await stack.enter_async_context(service(runtime))
        assert runtime.on_reload is not None
        runtime.on_reload(parse(CONFIG, "test"))
        assert not reloaded
        changed = CONFIG.replace("127.0.0.1:1", "127.0.0.1:2")
        for _ in range(2):
            runtime.on_reload(parse(changed, "test"))
        assert [len(resources.spec.machines) for resources in reloaded] == [1]
