"""Marks and backlog on a real bus."""

import asyncio

import pytest

from services.meter.adapters.ledger import Ledger
from services.meter.marks import Marks
from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.database import create_engine
from shared.messages.codec import decode, encode
from shared.messages.meter import Confirmed
from tests.unit.meter.events import MIDNIGHT, event


async def test_replicas_that_raise_the_same_mark_leave_the_highest(bus: JetStreamBus) -> None:
    """Each conflict is somebody's success, so that four need at most four tries."""
    marks = Marks(bus, Ledger(create_engine("sqlite+aiosqlite://")), lambda: MIDNIGHT)
    for first in range(1, 40, 4):
        await asyncio.gather(*(marks.raise_to("gw-1", first + n) for n in (3, 0, 2, 1)))
        entry = await bus.get(topology.METER, subjects.confirmed_key("gw-1"))
        assert entry is not None
        assert decode(entry.value, Confirmed).source_seq == first + 3


@pytest.fixture(params=["memory", "nats"])
def any_bus(request: pytest.FixtureRequest) -> Bus:
    if request.param == "memory":
        return MemoryBus()
    real: JetStreamBus = request.getfixturevalue("bus")
    return real


async def test_the_backlog_is_what_is_not_acknowledged(any_bus: Bus) -> None:
    for n in range(1, 6):
        await any_bus.publish(subjects.usage("gw-1"), encode(event(source_seq=n)))
    assert await any_bus.backlog(topology.LEDGER) == 5
    deliveries = await any_bus.fetch(topology.LEDGER, batch=3, wait=5.0)
    assert await any_bus.backlog(topology.LEDGER) == 5
    for delivery in deliveries:
        await delivery.ack()
    async with asyncio.timeout(10):
        while await any_bus.backlog(topology.LEDGER) != 5 - len(deliveries):  # noqa: ASYNC110 - told to nobody
            await asyncio.sleep(0)  # the server takes them in when it comes to it
