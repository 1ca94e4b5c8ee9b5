"""Counters are kept for the generation of the engine that they were read from, or for none."""

import asyncio
from typing import Any, cast

from prometheus_client import CollectorRegistry

from services.meter.app.engine_poller import EnginePoller
from services.meter.core.engine_counters import EngineCounters
from services.meter.core.engine_readings import EngineReading
from services.meter.metrics import AuditMetrics
from services.meter.ports import EngineStore
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.messages.codec import encode
from shared.messages.waker import MachineRecord
from shared.tasks import cancel_and_wait
from tests.kit.waiting import until


def record_of(generation: int, state: Any = "ready") -> MachineRecord:
    return MachineRecord(
        machine="m1",
        tier="t",
        state=state,
        provider_state="",
        endpoint="http://127.0.0.1:1",
        generation=generation,
        since=0.0,
        reason="",
    )


class Store:
    def __init__(self) -> None:
        self.readings: list[EngineReading] = []

    async def record_reading(self, reading: EngineReading, _day: object, *, is_unmanaged: bool) -> bool:
        self.readings.append(reading)
        return not is_unmanaged


class Scraper:
    """The machine is started again while its first reading is under way."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.reads = 0

    async def read(self, _endpoint: str, _machine: str = "") -> EngineCounters:
        self.reads += 1
        if self.reads == 1:
            await self._bus.put(topology.FLEET, subjects.machine_key("m1"), encode(record_of(2, "waking")))
        return EngineCounters(prompt_tokens=2, completion_tokens=1, running=0, rounding=0)

    async def close(self) -> None: ...


async def test_counters_of_the_next_engine_are_not_kept_for_the_one_before() -> None:
    bus, store, changed = MemoryBus(), Store(), asyncio.Event()
    await bus.put(topology.FLEET, subjects.machine_key("m1"), encode(record_of(1)))
    fleet = {"m1": record_of(1)}  # the view is late
    scraper = Scraper(bus)
    poller = EnginePoller(
        bus,
        fleet,
        cast("EngineStore", store),
        scraper,
        AuditMetrics(CollectorRegistry()),
        changed=changed,
        interval_s=3600.0,
        is_unmanaged=lambda _tier: False,
        now=lambda: 100.0,
        monotonic=lambda: 0.0,
    )
    running = asyncio.create_task(poller.run())
    await until(lambda: asyncio.sleep(0, scraper.reads), lambda reads: reads == 1)
    await bus.put(topology.FLEET, subjects.machine_key("m1"), encode(record_of(2)))
    fleet["m1"] = record_of(2)
    changed.set()
    await until(lambda: asyncio.sleep(0, store.readings), bool)
    assert [reading.generation for reading in store.readings] == [2]
    await cancel_and_wait([running])
