"""Marks, months and backlog on a real bus."""

import asyncio
from collections.abc import Collection

import pytest

from services.meter.adapters.ledger import SqlLedger
from services.meter.app.monotonic_bucket import MAX_CONCURRENT
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.core.record_result import RecordResult
from services.meter.core.rollups import MonthKey
from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.database import create_engine
from shared.messages.codec import decode, encode
from shared.messages.meter import Confirmed, KeyMonth
from tests.kit.waiting import until
from tests.unit.meter.events import MIDNIGHT, event


def recorded(marks: dict[str, int], months: dict[MonthKey, int]) -> RecordResult:
    return RecordResult(counted=0, repeated=0, conflicts=0, quarantined={}, unknown={}, marks=marks, months=months)


class NothingWritten(SqlLedger):
    """A ledger whose contents are all published already."""

    def __init__(self) -> None:
        super().__init__(create_engine("sqlite+aiosqlite://"))

    async def read_marks(self, since: float) -> dict[str, int]:
        return {}

    async def read_months(self, months: Collection[str]) -> dict[MonthKey, int]:
        return {}


async def publisher_on(bus: Bus, now: float = MIDNIGHT) -> ProgressPublisher:
    """Return a publisher that has published everything, so that it publishes batch by batch."""
    publisher = ProgressPublisher(bus, NothingWritten(), lambda: now)
    await publisher.publish(recorded({}, {}))
    return publisher


async def month_of_key(bus: Bus, key_id: str) -> tuple[str, int]:
    entry = await bus.get(topology.MONTHS, subjects.month_key(key_id))
    assert entry is not None
    month = decode(entry.value, KeyMonth)
    assert month.key_id == key_id
    return month.month, month.tokens


async def test_concurrent_replicas_leave_the_highest_value(bus: JetStreamBus) -> None:
    """Each conflict is another replica's success, so four replicas need at most four attempts."""
    month = MonthKey("2026-11", "org/k 1")
    publishers = [await publisher_on(bus) for _ in range(4)]
    for first in range(1, 40, 4):
        batches = [recorded({"gw-1": first + n}, {month: 100 * (first + n)}) for n in (3, 0, 2, 1)]
        await asyncio.gather(*(publisher.publish(batch) for publisher, batch in zip(publishers, batches, strict=True)))
        entry = await bus.get(topology.METER, subjects.confirmed_key("gw-1"))
        assert entry is not None
        assert decode(entry.value, Confirmed).source_seq == first + 3
        assert await month_of_key(bus, "org/k 1") == ("2026-11", 100 * (first + 3))


async def test_batch_may_exceed_the_concurrent_writes(bus: JetStreamBus) -> None:
    months = {MonthKey("2026-11", f"k{n}"): n for n in range(2 * MAX_CONCURRENT + 1)}
    await (await publisher_on(bus)).publish(recorded({}, months))
    assert {decode(e.value, KeyMonth).tokens for e in (await bus.entries(topology.MONTHS)).values()} == {
        *months.values()
    }


DECEMBER = MIDNIGHT + 8 * 86400.0


async def test_only_the_current_month_is_published_and_never_an_earlier_one(any_bus: Bus) -> None:
    november, december, far = (MonthKey(month, "k1") for month in ("2026-11", "2026-12", "2242-01"))
    publisher = await publisher_on(any_bus, now=DECEMBER - 61.0)
    await publisher.publish(recorded({}, {november: 50, december: 1, far: 9}))
    assert await month_of_key(any_bus, "k1") == ("2026-11", 50)
    # Clocks differ: within a minute of midnight somebody may be in the next month, or still in the one before.
    publisher = await publisher_on(any_bus, now=DECEMBER - 59.0)
    await publisher.publish(recorded({}, {december: 2, november: 60}))
    await publisher.publish(recorded({}, {november: 70}))
    assert await month_of_key(any_bus, "k1") == ("2026-12", 2)
    await publisher.publish(recorded({}, {november: 80, MonthKey("2026-11", "k2"): 3}))
    assert await month_of_key(any_bus, "k2") == ("2026-11", 3)
    publisher = await publisher_on(any_bus, now=DECEMBER + 61.0)
    await publisher.publish(recorded({}, {MonthKey("2026-11", "k3"): 4}))
    assert await any_bus.get(topology.MONTHS, subjects.month_key("k3")) is None


@pytest.fixture(params=["memory", "nats"])
def any_bus(request: pytest.FixtureRequest) -> Bus:
    if request.param == "memory":
        return MemoryBus()
    real: JetStreamBus = request.getfixturevalue("bus")
    return real


async def test_backlog_counts_unacknowledged_messages(any_bus: Bus) -> None:
    for n in range(1, 6):
        await any_bus.publish(subjects.usage("gw-1"), encode(event(source_seq=n)))
    # The server counts what it has taken when it comes to it.
    await until(lambda: any_bus.backlog(topology.LEDGER), lambda backlog: backlog == 5)
    size = await any_bus.size(topology.USAGE)
    assert size.used_bytes > 5 * len(encode(event(source_seq=1)))
    assert size.max_bytes is None
    deliveries = await any_bus.fetch(topology.LEDGER, batch=3, wait=60.0)
    assert 0 < len(deliveries) < 5
    assert await any_bus.backlog(topology.LEDGER) == 5
    for delivery in deliveries:
        await delivery.ack()
    await until(lambda: any_bus.backlog(topology.LEDGER), lambda backlog: backlog == 5 - len(deliveries))
