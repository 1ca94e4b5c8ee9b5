"""The consumer between a bus and real databases: the ledger is exact whatever dies, and when."""

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
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.app.consumer import Consumer
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.app.recorder import Recorder
from services.meter.core.batch import Batch
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import build_tokens
from services.meter.core.record_result import RecordResult
from services.meter.metrics import Metrics
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus, Changed, Delivery, WatchEvent
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Confirmed, KeyMonth, TokensQuery, TokenSums
from shared.units import DAY_S
from tests.kit.postgres import PostgresServer, asynchronous
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = parse_day("2026-11-23")
NOW = DAY.end + 1000.0

KEEP = 400 * 86400.0


class Killed(Exception):
    """The process is killed here with -9."""


@dataclass
class UnacknowledgedDelivery:
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
    """Reports when nothing is left and when it was used while down; may lose acknowledgements."""

    def __init__(self) -> None:
        super().__init__()
        self.dry = asyncio.Event()
        self.refused = asyncio.Event()
        self.loses_acks = False

    async def fetch(self, consumer: topology.Consumer, *, batch: int, wait: float) -> Sequence[Delivery]:
        if not self.connected:
            self.refused.set()
        sent = await super().fetch(consumer, batch=batch, wait=0)
        if not sent:
            self.dry.set()
        return [UnacknowledgedDelivery(d) for d in sent] if self.loses_acks else sent


class FailingLedger(SqlLedger):
    """Dies before or after its next commit on request; reports when a transaction failed."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.dies: str | None = None
        self.failed = asyncio.Event()

    async def record(self, batch: Batch, *, from_quarantine: bool = False) -> RecordResult:
        dies, self.dies = self.dies, None
        if dies == "before":
            raise Killed
        try:
            recorded = await super().record(batch, from_quarantine=from_quarantine)
        except database.DATABASE_ERRORS:
            self.failed.set()
            raise
        if dies == "after":
            raise Killed
        return recorded


def consumer_of(bus: FailingBus, ledger: SqlLedger, *, batch: int, stop: asyncio.Event | None = None) -> Consumer:
    """Return a consumer that ends when `stop` is set, or else when the stream is empty."""
    bus.dry.clear()

    async def stopped() -> None:
        await (stop or bus.dry).wait()

    return Consumer(bus, recorder_of(bus, ledger), batch_size=batch, monotonic=lambda: 0.0, stopped=stopped)


async def anybody(batch: Batch) -> Batch:
    """Vet a batch as if every key and source were known."""
    return batch


def recorder_of(bus: Bus, ledger: SqlLedger) -> Recorder:
    publisher = ProgressPublisher(bus, ledger, lambda: NOW)
    return Recorder(ledger, publisher, Metrics(CollectorRegistry()), anybody, keep_events_s=KEEP, now=lambda: NOW)


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[FailingLedger]:
    async with database.migrated_engine(ledger_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield FailingLedger(engine)


async def publish(bus: MemoryBus, *sent: UsageEvent) -> None:
    for e in sent:
        await bus.publish(subjects.usage(e.source), encode(e))


async def totals(ledger: SqlLedger) -> TokenSums:
    return build_tokens(
        DAY, TokensQuery(day=DAY.name), await ledger.read_day(DAY, (), busy=False), None, now=NOW, source_silence_s=60
    ).totals


async def published_marks(bus: MemoryBus) -> dict[str, int]:
    sent = [decode(entry.value, Confirmed) for entry in (await bus.entries(topology.METER)).values()]
    return {confirmed.source: confirmed.source_seq for confirmed in sent}


async def months(bus: MemoryBus) -> dict[str, tuple[str, int]]:
    sent = [decode(entry.value, KeyMonth) for entry in (await bus.entries(topology.MONTHS)).values()]
    return {month.key_id: (month.month, month.tokens) for month in sent}


def november(sent: Sequence[UsageEvent]) -> dict[str, tuple[str, int]]:
    """Return the expected months after these events, all of November."""
    sums = {key: sums_of([e for e in sent if e.key_id == key]) for key in {e.key_id for e in sent}}
    return {key: ("2026-11", s.prompt_tokens + s.completion_tokens) for key, s in sums.items()}


class Gateway:
    """Watches as a gateway does: the months that it knows include everything that a mark covers."""

    def __init__(self, bus: MemoryBus, sent: Sequence[UsageEvent]) -> None:
        self._bus = bus
        self._sent = sent
        self.marks_seen = 0

    async def start(self) -> None:
        await self._bus.watch(topology.METER, self._on_mark)

    def _on_mark(self, change: WatchEvent) -> None:
        if not isinstance(change, Changed) or change.value is None:
            return
        mark = decode(change.value, Confirmed)
        covered = [e for e in self._sent if e.source == mark.source and e.source_seq <= mark.source_seq]
        known = {name: decode(e.value, KeyMonth) for name, e in self._bus._bucket(topology.MONTHS).items()}
        for key, (_, tokens) in november(covered).items():
            assert known[key].tokens >= tokens, "the month comes before the mark"
        self.marks_seen += 1


async def test_events_are_counted_acknowledged_and_confirmed(ledger: FailingLedger) -> None:
    bus = FailingBus()
    sent = [event(f"gw-{s}", n, key_id=f"k{n % 3}") for s in (1, 2) for n in range(1, 8)]
    gateway = Gateway(bus, sent)
    await gateway.start()
    await publish(bus, *sent)
    await consumer_of(bus, ledger, batch=4).run()
    assert await totals(ledger) == sums_of(sent)
    assert await bus.backlog(topology.LEDGER) == 0
    assert await published_marks(bus) == {"gw-1": 7, "gw-2": 7}
    assert await months(bus) == november(sent)
    assert gateway.marks_seen >= 2


async def test_nothing_is_acknowledged_or_published_before_its_commit(ledger: FailingLedger) -> None:
    bus = FailingBus()
    await publish(bus, event())
    ledger.dies = "before"
    with pytest.raises(Killed):
        await consumer_of(bus, ledger, batch=4).run()
    assert (await bus.backlog(topology.LEDGER), await published_marks(bus), await months(bus)) == (1, {}, {})


async def test_month_of_a_dead_meter_is_published_before_the_mark_on_redelivery(
    ledger: FailingLedger,
) -> None:
    bus, sent = FailingBus(), [event(source_seq=n) for n in (1, 2)]
    gateway = Gateway(bus, sent)
    await gateway.start()
    await publish(bus, *sent)
    ledger.dies = "after"
    with pytest.raises(Killed):
        await consumer_of(bus, ledger, batch=4).run()
    assert (await published_marks(bus), await months(bus)) == ({}, {})
    bus.redeliver(topology.LEDGER)
    await consumer_of(bus, ledger, batch=4).run()
    assert (await published_marks(bus), await months(bus)) == ({"gw-1": 2}, november(sent))
    assert gateway.marks_seen == 1


async def test_mark_over_a_dead_meters_batch_is_published_after_its_month(ledger: FailingLedger) -> None:
    """The dead meter still holds its message: only the event with the lower number is delivered."""
    bus, sent = FailingBus(), [event(source_seq=n, key_id=f"k{n}") for n in (2, 1)]
    gateway = Gateway(bus, sent)
    await gateway.start()
    await publish(bus, *sent)
    ledger.dies = "after"
    with pytest.raises(Killed):
        await consumer_of(bus, ledger, batch=1).run()
    await consumer_of(bus, ledger, batch=1).run()
    assert (await published_marks(bus), await months(bus)) == ({"gw-1": 2}, november(sent))
    assert gateway.marks_seen == 1


async def test_mark_waits_for_the_sweep_when_a_month_cannot_be_published(
    ledger: FailingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, sent = FailingBus(), [event(source_seq=n, key_id=f"k{n}") for n in (1, 2, 3)]
    gateway = Gateway(bus, sent)
    await gateway.start()
    await publish(bus, *sent)
    create = bus.create

    async def refuses_a_month(bucket: topology.Bucket, key: str, value: bytes) -> int:
        if key == subjects.month_key("k2"):
            raise BusUnavailable("no answer in time")
        return await create(bucket, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(bus, "create", refuses_a_month)
        await consumer_of(bus, ledger, batch=4).run()
        with pytest.raises(BusUnavailable):
            await ProgressPublisher(bus, ledger, lambda: NOW).sweep()
    assert (await published_marks(bus), await months(bus)) == ({}, november([sent[0], sent[2]]))
    await ProgressPublisher(bus, ledger, lambda: NOW).sweep()
    assert (await published_marks(bus), await months(bus)) == ({"gw-1": 3}, november(sent))


async def test_mark_over_an_unpublished_batch_follows_the_months_of_both(
    ledger: FailingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, sent = FailingBus(), [event(source_seq=n, key_id=f"k{n}") for n in (2, 1)]
    gateway = Gateway(bus, sent)
    await gateway.start()
    await publish(bus, *sent)
    create, refused = bus.create, asyncio.Event()

    async def refuses_once(bucket: topology.Bucket, key: str, value: bytes) -> int:
        if key == subjects.month_key("k2") and not refused.is_set():
            refused.set()
            raise BusUnavailable("no answer in time")
        return await create(bucket, key, value)

    monkeypatch.setattr(bus, "create", refuses_once)
    await consumer_of(bus, ledger, batch=1).run()
    assert (await published_marks(bus), await months(bus)) == ({"gw-1": 2}, november(sent))
    assert refused.is_set()


deaths = st.sampled_from([None, None, "before", "after", "acks", "marks"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 8)), max_size=60),
    faults=st.lists(st.tuples(st.integers(0, 20), deaths), max_size=6),
    batch=st.integers(1, 7),
)
async def test_ledger_is_the_same_after_any_order_repetition_and_death(
    ledger: FailingLedger, order: list[tuple[int, int]], faults: list[tuple[int, str | None]], batch: int
) -> None:
    async with ledger._engine.begin() as connection:
        for table in (tables.events, tables.rollups, tables.hours, tables.sources, tables.runs, tables.key_months):
            await connection.execute(table.delete())
    bus = FailingBus()
    known = {(s, n): event(f"gw-{s}", n, prompt_tokens=s * n, key_id=f"k{n % 2}") for s, n in order}
    once, waiting = list(known.values()), [known[number] for number in order]
    await Gateway(bus, once).start()
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
    await ProgressPublisher(bus, ledger, lambda: NOW).sweep()

    assert await totals(ledger) == sums_of(once)
    assert await months(bus) == november(once)
    assert await bus.backlog(topology.LEDGER) == 0
    arrived = {s: {n for source, n in order if source == s} for s in (1, 2, 3)}
    marks = {f"gw-{s}": next(n for n in range(9) if n + 1 not in seen) for s, seen in arrived.items()}
    assert await published_marks(bus) == {source: mark for source, mark in marks.items() if mark}


async def test_everything_is_published_again_when_the_bus_lost_its_data(ledger: FailingLedger) -> None:
    bus = FailingBus()
    sent = [*(event("gw-1", n) for n in (1, 2)), event("gw-2", 1, key_id="k2"), event("gw-3", 2, key_id="k3")]
    before = event("gw-1", 3, key_id="k4", completed_at=MIDNIGHT - 40 * DAY_S)
    await publish(bus, *sent, before)
    await consumer_of(bus, ledger, batch=10).run()
    restored = FailingBus()
    higher = KeyMonth(key_id="k2", month="2026-11", tokens=999, at=NOW)
    await restored.put(topology.MONTHS, subjects.month_key("k2"), encode(higher))
    await restored.put(topology.MONTHS, subjects.month_key("k3"), b"nonsense")
    mark = Confirmed(source="gw-2", source_seq=9, at=NOW)
    await restored.put(topology.METER, subjects.confirmed_key("gw-2"), encode(mark))
    await restored.put(topology.METER, subjects.confirmed_key("gw-1"), b"nonsense")
    publisher = ProgressPublisher(restored, ledger, lambda: NOW)
    await publisher.sweep()
    assert await published_marks(restored) == {"gw-1": 3, "gw-2": 9}
    assert await months(restored) == {**november(sent), "k2": ("2026-11", 999)}, "a month that is over limits nobody"
    entries = [await restored.entries(bucket) for bucket in (topology.METER, topology.MONTHS)]
    await publisher.sweep()
    assert [await restored.entries(bucket) for bucket in (topology.METER, topology.MONTHS)] == entries, "told once"


async def test_consumer_waits_while_the_bus_is_down(ledger: FailingLedger) -> None:
    bus = FailingBus()
    await publish(bus, event())
    bus.connected = False
    stop = asyncio.Event()
    running = asyncio.create_task(consumer_of(bus, ledger, batch=10, stop=stop).run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await bus.refused.wait()
        bus.connected = True
        await bus.dry.wait()
    stop.set()
    await running
    assert await totals(ledger) == sums_of([event()])


async def test_consumer_retries_until_the_database_is_back(postgres_server: PostgresServer) -> None:
    postgres_server.start()
    url = asynchronous(postgres_server.url)
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        ledger, bus, stop = FailingLedger(engine), FailingBus(), asyncio.Event()
        await publish(bus, event(source_seq=1))
        await consumer_of(bus, ledger, batch=10).run()
        postgres_server.stop()
        await publish(bus, event(source_seq=2))
        running = asyncio.create_task(consumer_of(bus, ledger, batch=10, stop=stop).run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ledger.failed.wait()
            assert ledger.fault is not None
            assert await bus.backlog(topology.LEDGER) == 1
            await asyncio.to_thread(postgres_server.start)
            await bus.dry.wait()
        stop.set()
        await running
        assert ledger.fault is None
        assert await totals(ledger) == sums_of([event(source_seq=n) for n in (1, 2)])


async def test_messages_stay_on_the_bus_when_stopped_while_the_database_is_down(ledger: FailingLedger) -> None:
    bus, stop = FailingBus(), asyncio.Event()
    await publish(bus, event())
    async with ledger._engine.begin() as connection:
        await connection.run_sync(tables.runs.drop)
    running = asyncio.create_task(consumer_of(bus, ledger, batch=10, stop=stop).run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await ledger.failed.wait()
        stop.set()
        await running
    assert await bus.backlog(topology.LEDGER) == 1
