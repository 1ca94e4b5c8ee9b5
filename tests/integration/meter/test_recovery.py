"""A ledger that was restored from an older copy finds out by itself, and reads the stream until it has everything."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from services.meter.adapters import tables
from services.meter.adapters.confirmed_marks import SqlConfirmedMarks
from services.meter.adapters.gap_store import SqlGapStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.app.recorder import Recorder
from services.meter.app.recovery import Recovery
from services.meter.core.batch import parse_batch
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import build_tokens
from services.meter.metrics import Metrics
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Confirmed, DeclareLost, ErrorReply, Gaps, Reread, RereadQuery, Tokens, TokensQuery
from tests.integration.meter.test_consumer import anybody
from tests.integration.meter.test_ledger import ledger_on
from tests.unit.meter.events import event, sums_of

DAY = parse_day("2026-11-23")
NOW = DAY.end + 2 * 86400.0
LATER = NOW + 120.0
"""All sources have ended by then."""
EVENTS = [event(f"gw-{s}", n, prompt_tokens=s + n) for s in (1, 2) for n in range(1, 9)]


@dataclass
class Meter:
    """The part of a meter that takes part in a recovery, on one ledger."""

    bus: MemoryBus
    ledger: SqlLedger
    marks: SqlConfirmedMarks
    gaps: SqlGapStore
    recorder: Recorder
    recovery: Recovery

    async def count(self, *sent: UsageEvent) -> None:
        """Record events as the consumer does: commit, then confirm."""
        await self.recorder.publish_progress(await self.recorder.record([encode(e) for e in sent]))

    async def tokens(self) -> Tokens:
        facts = await self.ledger.read_day(DAY, (), busy=False)
        return build_tokens(DAY, TokensQuery(day=DAY.name), facts, LATER, now=LATER, source_silence_s=60)

    async def list_gaps(self) -> Gaps:
        return await self.gaps.list_gaps(LATER)

    async def go_back(self, kept: set[str]) -> None:
        """Restore an older copy that has only these events."""
        left = [e for e in EVENTS if e.id in kept]
        async with self.ledger._engine.begin() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                if table is not tables.horizon:
                    await connection.execute(table.delete())
        if left:
            await self.ledger.record(parse_batch([encode(e) for e in left], DAY.start + 600.0))


def meter_on(ledger: SqlLedger, bus: MemoryBus, batch: int = 3) -> Meter:
    engine, metrics = ledger._engine, Metrics(CollectorRegistry())
    recorder = Recorder(
        ledger, ProgressPublisher(bus, ledger, lambda: NOW), metrics, anybody, keep_events_s=NOW, now=lambda: NOW
    )
    marks = SqlConfirmedMarks(engine)
    recovery = Recovery(bus, marks, recorder, metrics, batch_size=batch, now=lambda: NOW)
    return Meter(bus, ledger, marks, SqlGapStore(engine), recorder, recovery)


@pytest.fixture
async def meter(ledger_url: str) -> AsyncIterator[Meter]:
    async with ledger_on(ledger_url) as ledger:
        yield meter_on(ledger, MemoryBus())


async def publish(bus: MemoryBus, *sent: UsageEvent) -> None:
    for e in sent:
        await bus.publish(subjects.usage(e.source), encode(e))


async def test_restored_ledger_is_incomplete_until_the_stream_is_reread(meter: Meter) -> None:
    await publish(meter.bus, *EVENTS)
    await meter.count(*EVENTS)
    await meter.recovery.compare()
    assert (await meter.tokens()).complete
    await meter.go_back({"gw-1/1", "gw-1/2", "gw-1/3"})
    assert (await meter.tokens()).complete, "by itself it does not know"
    await meter.recovery.compare()
    went_back = await meter.tokens()
    assert (went_back.complete, went_back.open_gaps) == (False, 13)
    assert "it is reading the stream again" in went_back.reasons[0]
    gaps = (await meter.list_gaps()).open
    assert sorted((g.source, g.first, g.last) for g in gaps) == [("gw-1", 4, 8), ("gw-2", 1, 8)]
    assert all(g.note is not None and "reading the stream again" in g.note for g in gaps)

    await meter.recovery.catch_up()
    again = await meter.tokens()
    assert (again.complete, again.totals) == (True, sums_of(EVENTS))
    assert (await meter.list_gaps()).open == ()


async def test_events_gone_from_the_stream_stay_missing_and_are_searched_once(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(meter.bus, *EVENTS[:6], *EVENTS[8:])
    await meter.count(*EVENTS)
    await meter.go_back(set())
    await meter.recovery.compare()
    await meter.recovery.catch_up()
    left = await meter.tokens()
    assert (left.totals, left.complete, left.open_gaps) == (sums_of([*EVENTS[:6], *EVENTS[8:]]), False, 2)
    assert left.reasons[0] == "2 events of gw-1 are missing: see `spotinference gaps list`"
    (gap,) = (await meter.list_gaps()).open
    note = "the ledger had it and was restored from an older copy; the stream no longer has it"
    assert (gap.first, gap.last, gap.note) == (7, 8, note)

    async def page(*_: object, **__: object) -> None:
        pytest.fail("the stream is read again")

    monkeypatch.setattr(meter.bus, "page", page)
    await meter.recovery.compare()
    await meter.recovery.catch_up()
    await meter.gaps.declare_lost(DeclareLost(source="gw-1", first=7, last=8, by="Ada", reason="gone"), NOW)
    assert (await meter.tokens()).complete


async def test_interrupted_search_continues(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    await publish(meter.bus, *EVENTS)
    await meter.count(*EVENTS)
    await meter.go_back(set())
    await meter.recovery.compare()
    page, parse_batch = meter.bus.page, list[int]()

    async def fails_once(stream: topology.Stream, *, after: int, since: float | None = None, most: int) -> object:
        parse_batch.append(after)
        if len(parse_batch) == 3:
            raise BusUnavailable("no answer in time")
        return await page(stream, after=after, since=since, most=most)

    monkeypatch.setattr(meter.bus, "page", fails_once)
    with pytest.raises(BusUnavailable):
        await meter.recovery.catch_up()
    assert not (await meter.tokens()).complete
    await meter.recovery.catch_up()
    assert (await meter.tokens()).totals == sums_of(EVENTS)
    assert parse_batch == sorted(parse_batch), "it does not begin anew"


async def test_two_meters_may_search_concurrently(postgres_url: str) -> None:
    async with ledger_on(postgres_url) as first, ledger_on(postgres_url) as second:
        bus = MemoryBus()
        meters = [meter_on(ledger, bus) for ledger in (first, second)]
        await publish(bus, *EVENTS)
        await meters[0].count(*EVENTS)
        await meters[0].go_back({"gw-2/1"})
        for meter in meters:
            await meter.recovery.compare()
            await meter.recovery.catch_up()
        assert (await meters[1].tokens()).totals == sums_of(EVENTS)


async def test_invalid_marks_change_nothing(meter: Meter) -> None:
    await meter.count(*EVENTS)
    for key, value in {
        "confirmed.gw-1": b"nonsense",
        "confirmed.gw-9": encode(Confirmed(source="gw-8", source_seq=5, at=NOW)),
        "confirmed.gw-7": encode(Confirmed(source="gw-7", source_seq=2**63, at=NOW)),
    }.items():
        await meter.bus.put(topology.METER, key, value)
    await meter.recovery.compare()
    assert (await meter.list_gaps()).open == ()


async def test_reread_returns_the_stream_page_by_page(meter: Meter) -> None:
    await publish(meter.bus, *EVENTS)
    await meter.count(*EVENTS[:5])
    after, sums = 0, {"read": 0, "counted": 0, "repeated": 0}
    while True:
        page = decode(await meter.recovery.handle_reread(encode(RereadQuery(since=0.0, after=after))), Reread)
        sums = {name: count + getattr(page, name) for name, count in sums.items()}
        if page.last >= page.end:
            break
        after = page.last
    assert sums == {"read": 16, "counted": 11, "repeated": 5}
    assert decode(await meter.recovery.handle_reread(b"{"), ErrorReply).reason
    meter.bus.connected = False
    assert (
        "the bus does not answer"
        in decode(await meter.recovery.handle_reread(encode(RereadQuery())), ErrorReply).reason
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.sets(st.sampled_from([e.id for e in EVENTS])), gone=st.sets(st.sampled_from(range(len(EVENTS)))))
async def test_lost_events_are_counted_again_or_listed_as_missing(meter: Meter, kept: set[str], gone: set[int]) -> None:
    """`gone`: positions of the events that the stream no longer has."""
    meter = meter_on(meter.ledger, MemoryBus())
    await publish(meter.bus, *(e for n, e in enumerate(EVENTS) if n not in gone))
    await meter.count(*EVENTS)
    await meter.go_back(kept)
    await meter.recovery.compare()
    await meter.recovery.catch_up()
    there = [e for n, e in enumerate(EVENTS) if n not in gone or e.id in kept]
    tokens = await meter.tokens()
    assert tokens.totals == sums_of(there)
    assert (tokens.complete, tokens.open_gaps) == (len(there) == len(EVENTS), len(EVENTS) - len(there))
    async with database.read_transaction(meter.ledger._engine) as connection:
        assert (await connection.execute(select(func.count()).select_from(tables.conflicts))).scalar_one() == 0
    await meter.go_back(set())
