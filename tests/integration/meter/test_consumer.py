"""The consumer between a bus and real databases: whatever dies when, the ledger is exact."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters import tables
from services.meter.adapters.ledger import Ledger, Recorded
from services.meter.consumer import Consumer
from services.meter.core.batch import Batch
from services.meter.core.day import answer, parse_day
from services.meter.marks import Marks
from services.meter.metrics import Metrics
from services.meter.wiring import MIGRATIONS, VERSION_TABLE
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.bus.ports import Delivery
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Confirmed, TokensQuery, TokenSums
from tests.kit.postgres import PostgresServer, asynchronous
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = parse_day("2026-11-23")
NOW = MIDNIGHT + 1000.0


class Killed(Exception):
    """The process ends here, with -9."""


@dataclass
class Unheard:
    """A delivery whose acknowledgement does not reach the server."""

    delivery: Delivery

    @property
    def data(self) -> bytes:
        return self.delivery.data

    @property
    def subject(self) -> str:
        return self.delivery.subject

    @property
    def sequence(self) -> int:
        return self.delivery.sequence

    async def ack(self) -> None:
        raise BusUnavailable("not connected")


class FailingBus(MemoryBus):
    """Says when nothing is left, and when it was asked while away; may lose acknowledgements."""

    def __init__(self) -> None:
        super().__init__()
        self.dry = asyncio.Event()
        self.refused = asyncio.Event()
        self.loses_acks = False

    async def fetch(self, consumer: topology.Consumer, *, batch: int, wait: float) -> Sequence[Delivery]:
        if not self.connected:
            self.refused.set()
        found = await super().fetch(consumer, batch=batch, wait=0)
        if not found:
            self.dry.set()
        return [Unheard(d) for d in found] if self.loses_acks else found


class FailingLedger(Ledger):
    """Dies before or after its next commit, when told so; says when a transaction failed."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.dies: str | None = None
        self.failed = asyncio.Event()

    async def record(self, batch: Batch) -> Recorded:
        dies, self.dies = self.dies, None
        if dies == "before":
            raise Killed
        try:
            recorded = await super().record(batch)
        except database.AWAY:
            self.failed.set()
            raise
        if dies == "after":
            raise Killed
        return recorded


def consumer_of(bus: FailingBus, ledger: Ledger, *, batch: int, stop: asyncio.Event | None = None) -> Consumer:
    """Ends when `stop` is set, or else when the stream is dry."""
    bus.dry.clear()

    async def stopped() -> None:
        await (stop or bus.dry).wait()

    marks = Marks(bus, ledger, lambda: NOW)
    metrics = Metrics(CollectorRegistry())
    return Consumer(bus, ledger, marks, metrics, batch=batch, now=lambda: NOW, monotonic=lambda: 0.0, stopped=stopped)


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[FailingLedger]:
    async with database.opened(database_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield FailingLedger(engine)


async def publish(bus: MemoryBus, *found: UsageEvent) -> None:
    for e in found:
        await bus.publish(subjects.usage(e.source), encode(e))


async def totals(ledger: Ledger) -> TokenSums:
    return answer(DAY, TokensQuery(day=DAY.name), await ledger.day(DAY, (), busy=False), None).totals


async def told(bus: MemoryBus) -> dict[str, int]:
    found = [decode(entry.value, Confirmed) for entry in (await bus.entries(topology.METER)).values()]
    return {confirmed.source: confirmed.source_seq for confirmed in found}


async def test_events_are_counted_acknowledged_and_told(ledger: FailingLedger) -> None:
    bus = FailingBus()
    found = [event(f"gw-{s}", n) for s in (1, 2) for n in range(1, 8)]
    await publish(bus, *found)
    await consumer_of(bus, ledger, batch=4).run()
    assert await totals(ledger) == sums_of(found)
    assert await bus.backlog(topology.LEDGER) == 0
    assert await told(bus) == {"gw-1": 7, "gw-2": 7}


async def test_nothing_is_acknowledged_or_told_before_its_commit(ledger: FailingLedger) -> None:
    bus = FailingBus()
    await publish(bus, event())
    ledger.dies = "before"
    with pytest.raises(Killed):
        await consumer_of(bus, ledger, batch=4).run()
    assert (await bus.backlog(topology.LEDGER), await told(bus)) == (1, {})


deaths = st.sampled_from([None, None, "before", "after", "acks", "marks"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 8)), max_size=60),
    faults=st.lists(st.tuples(st.integers(0, 20), deaths), max_size=6),
    batch=st.integers(1, 7),
)
async def test_any_order_repetition_and_death_gives_the_same_ledger(
    ledger: FailingLedger, order: list[tuple[int, int]], faults: list[tuple[int, str | None]], batch: int
) -> None:
    async with ledger._engine.begin() as connection:
        for table in (tables.events, tables.rollups, tables.sources, tables.runs):
            await connection.execute(table.delete())
    bus = FailingBus()
    waiting = [event(f"gw-{s}", n, prompt_tokens=s * n) for s, n in order]
    for count, fault in [*faults, (len(waiting), None)]:
        now, waiting = waiting[:count], waiting[count:]
        await publish(bus, *now)
        bus.loses_acks = fault == "acks"
        ledger.dies = fault
        with suppress(Killed):
            await consumer_of(bus, ledger, batch=batch).run()
        bus.redeliver(topology.LEDGER)
        if fault == "marks":
            bus._buckets.clear()
    ledger.dies, bus.loses_acks = None, False
    await consumer_of(bus, ledger, batch=batch).run()
    await Marks(bus, ledger, lambda: NOW).sweep()

    once = {e.id: e for e in (event(f"gw-{s}", n, prompt_tokens=s * n) for s, n in order)}
    assert await totals(ledger) == sums_of(list(once.values()))
    assert await bus.backlog(topology.LEDGER) == 0
    arrived = {s: {n for source, n in order if source == s} for s in (1, 2, 3)}
    marks = {f"gw-{s}": next(n for n in range(9) if n + 1 not in seen) for s, seen in arrived.items()}
    assert await told(bus) == {source: mark for source, mark in marks.items() if mark}


async def test_a_bus_that_lost_its_marks_gets_them_back_and_none_is_lowered(ledger: FailingLedger) -> None:
    bus = FailingBus()
    await publish(bus, *(event("gw-1", n) for n in (1, 2)), event("gw-2", 1), event("gw-3", 2))
    await consumer_of(bus, ledger, batch=10).run()
    restored = FailingBus()
    marks = Marks(restored, ledger, lambda: NOW)
    await marks.raise_to("gw-2", 9)
    await restored.put(topology.METER, subjects.confirmed_key("gw-1"), b"nonsense")
    await marks.sweep()
    assert await told(restored) == {"gw-1": 2, "gw-2": 9}
    revision = (await restored.entries(topology.METER))[subjects.confirmed_key("gw-1")].revision
    await marks.sweep()
    assert (await restored.entries(topology.METER))[subjects.confirmed_key("gw-1")].revision == revision


async def test_a_bus_that_is_away_is_waited_for(ledger: FailingLedger) -> None:
    bus = FailingBus()
    await publish(bus, event())
    bus.connected = False
    stop = asyncio.Event()
    running = asyncio.create_task(consumer_of(bus, ledger, batch=10, stop=stop).run())
    async with asyncio.timeout(10):
        await bus.refused.wait()
        bus.connected = True
        await bus.dry.wait()
    stop.set()
    await running
    assert await totals(ledger) == sums_of([event()])


async def test_a_database_that_is_away_is_waited_for_and_then_has_everything(postgres_server: PostgresServer) -> None:
    postgres_server.start()
    url = asynchronous(postgres_server.url)
    async with database.opened(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        ledger, bus, stop = FailingLedger(engine), FailingBus(), asyncio.Event()
        await publish(bus, event(source_seq=1))
        await consumer_of(bus, ledger, batch=10).run()
        postgres_server.stop()
        await publish(bus, event(source_seq=2))
        running = asyncio.create_task(consumer_of(bus, ledger, batch=10, stop=stop).run())
        async with asyncio.timeout(30):
            await ledger.failed.wait()
            assert ledger.fault is not None
            assert await bus.backlog(topology.LEDGER) == 1
            await asyncio.to_thread(postgres_server.start)
            await bus.dry.wait()
        stop.set()
        await running
        assert ledger.fault is None
        assert await totals(ledger) == sums_of([event(source_seq=n) for n in (1, 2)])


async def test_an_end_while_the_database_is_away_leaves_the_messages_on_the_bus(ledger: FailingLedger) -> None:
    bus, stop = FailingBus(), asyncio.Event()
    await publish(bus, event())
    async with ledger._engine.begin() as connection:
        await connection.run_sync(tables.runs.drop)
    running = asyncio.create_task(consumer_of(bus, ledger, batch=10, stop=stop).run())
    async with asyncio.timeout(10):
        await ledger.failed.wait()
        stop.set()
        await running
    assert await bus.backlog(topology.LEDGER) == 1
