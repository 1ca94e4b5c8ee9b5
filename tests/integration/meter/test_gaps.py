"""Missing events of a source: how long they are waited for, and how they are declared lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, text

from services.meter.adapters import tables
from services.meter.adapters.gap_store import SqlGapStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.app.gap_queries import GapQueries
from services.meter.app.source_heartbeats import SourceHeartbeats
from services.meter.core.batch import parse_batch
from services.meter.core.completeness import Heartbeat
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import build_tokens
from shared import database
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.errors import Rejected
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, UsageEvent
from shared.messages.meter import DeclareLost, ErrorReply, Gaps, GapsQuery, Tokens, TokensQuery
from tests.integration.meter.test_ledger import ledger_on
from tests.unit.meter.events import event, sums_of

DAY = parse_day("2026-11-23")
SILENCE = 86400.0
LOST = DeclareLost(source="gw-1", first=2, last=3, by="Ada", reason="the disk burnt")


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with ledger_on(ledger_url) as opened:
        yield opened


@pytest.fixture
def store(ledger: SqlLedger) -> SqlGapStore:
    return SqlGapStore(ledger._engine)


async def record(ledger: SqlLedger, *sent: UsageEvent, at: float = DAY.end - 60) -> None:
    await ledger.record(parse_batch([encode(e) for e in sent], at))


async def day_tokens(ledger: SqlLedger, now: float) -> Tokens:
    facts = await ledger.read_day(DAY, (), busy=False, active_since=now - SILENCE)
    return build_tokens(DAY, TokensQuery(day=DAY.name), facts, now, now=now, source_silence_s=SILENCE)


async def numbers(store: SqlGapStore, now: float) -> list[tuple[int, int]]:
    return [(gap.first, gap.last) for gap in (await store.list_gaps(now)).open]


async def losses(ledger: SqlLedger) -> list[Any]:
    async with database.read_transaction(ledger._engine) as connection:
        return list(await connection.execute(select(tables.losses)))


async def test_gap_is_open_until_declared_lost_and_the_loss_is_recorded(ledger: SqlLedger, store: SqlGapStore) -> None:
    now = DAY.end + 2 * SILENCE
    await record(ledger, event(source_seq=1), event(source_seq=6))
    assert await numbers(store, now) == [(2, 5)]
    assert ((await day_tokens(ledger, now)).complete, (await day_tokens(ledger, now)).open_gaps) == (False, 4)
    await store.declare_lost(LOST, now)
    assert await numbers(store, now) == [(4, 5)]
    assert not (await day_tokens(ledger, now)).complete
    await store.declare_lost(msgspec.structs.replace(LOST, first=4, last=5), now + 1)
    assert await numbers(store, now) == []
    assert (await day_tokens(ledger, now)).complete
    assert [(r.first, r.last, r.declared_by, r.reason, r.declared_at) for r in await losses(ledger)] == [
        (2, 3, "Ada", "the disk burnt", now),
        (4, 5, "Ada", "the disk burnt", now + 1),
    ]
    assert await ledger.read_marks(0) == {"gw-1": 1}, "the gateway forgets nothing by it"


async def test_lost_event_is_counted_when_it_arrives_after_all(ledger: SqlLedger, store: SqlGapStore) -> None:
    now = DAY.end + 2 * SILENCE
    sent = [event(source_seq=n) for n in range(1, 5)]
    await record(ledger, sent[0], sent[3])
    await store.declare_lost(LOST, now)
    await record(ledger, *sent[1:3], at=now)
    assert (await day_tokens(ledger, now)).totals == sums_of(sent)
    assert await ledger.read_marks(0) == {"gw-1": 4}
    assert len(await losses(ledger)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 1},
        {"last": 4},
        {"first": 3, "last": 2},
        {"source": "gw-2"},
        {"by": " "},
        {"reason": ""},
        {"reason": "x" * 301},
    ],
)
async def test_only_missing_events_can_be_declared_lost(
    ledger: SqlLedger, store: SqlGapStore, wrong: dict[str, Any]
) -> None:
    await record(ledger, event(source_seq=1), event(source_seq=4))
    with pytest.raises(Rejected):
        await store.declare_lost(msgspec.structs.replace(LOST, **wrong), DAY.end)
    assert await losses(ledger) == []


async def test_concurrent_declarations_of_the_same_loss_are_one(postgres_url: str) -> None:
    async with ledger_on(postgres_url) as first, ledger_on(postgres_url) as second:
        sources = [f"gw-{n}" for n in range(20)]
        await record(first, *(event(source, n) for source in sources for n in (1, 9)))
        stores = (SqlGapStore(first._engine), SqlGapStore(second._engine))
        orders = [msgspec.structs.replace(LOST, source=s, first=f, last=f + 3) for s in sources for f in (2, 4)]
        work = (store.declare_lost(order, DAY.end) for order in orders for store in stores)
        done = await asyncio.gather(*work, return_exceptions=True)
        assert sum(isinstance(result, Rejected) for result in done) == 3 * len(sources)
        assert len(await losses(first)) == len(sources)


async def test_quarantined_message_can_be_declared_lost_by_its_number(ledger: SqlLedger, store: SqlGapStore) -> None:
    now = DAY.end + 2 * SILENCE
    await ledger.record(parse_batch([encode(event(source_seq=1)), encode(event(source_seq=2, status=-1))], DAY.end))
    (gap,) = (await store.list_gaps(now)).open
    assert (gap.first, gap.last, gap.quarantined) == (2, 2, "status: expected 0 to 2^40, got -1")
    assert not (await day_tokens(ledger, now)).complete
    await store.declare_lost(msgspec.structs.replace(LOST, last=2), now)
    assert await numbers(store, now) == []
    assert (await day_tokens(ledger, now)).complete


async def test_written_events_are_missing_once_the_source_is_silent(ledger: SqlLedger, store: SqlGapStore) -> None:
    await record(ledger, event(source_seq=1))
    await store.record_heartbeats({"gw-1": Heartbeat(written=3, received_at=DAY.end - 10, left=False)})
    assert await numbers(store, DAY.end + 49) == [], "it may be on its way"
    for now in (DAY.end + 61, DAY.end + 10 * SILENCE):
        assert await numbers(store, now) == [(2, 3)]
        assert ((await day_tokens(ledger, now)).complete, (await day_tokens(ledger, now)).open_gaps) == (False, 2)
    await record(ledger, event(source_seq=2), event(source_seq=3), at=DAY.end + 70)
    assert await numbers(store, DAY.end + 9999) == []


async def test_source_without_events_is_known_by_its_heartbeat(ledger: SqlLedger, store: SqlGapStore) -> None:
    await store.record_heartbeats({"gw-1": Heartbeat(written=2, received_at=DAY.end - 10, left=True)})
    await store.record_heartbeats({"gw-2": Heartbeat(written=0, received_at=DAY.end - 10, left=True)})
    assert await numbers(store, DAY.end + 61) == [(1, 2)]
    assert not (await day_tokens(ledger, DAY.end + 10 * SILENCE)).complete


@pytest.mark.parametrize(
    ("heartbeat", "after", "complete"),
    [
        (None, 61, False),
        (None, SILENCE, True),
        (Heartbeat(written=1, received_at=DAY.end - 10, left=False), 61, False),
        (Heartbeat(written=1, received_at=DAY.end - 10, left=False), SILENCE - 11, False),
        (Heartbeat(written=1, received_at=DAY.end - 10, left=False), SILENCE, True),
        (Heartbeat(written=1, received_at=DAY.end - 10, left=True), 61, True),
        (Heartbeat(written=1, received_at=DAY.end + 60, left=False), 61, True),
        (Heartbeat(written=0, received_at=DAY.end + 60, left=False), 61, True),
        (Heartbeat(written=2, received_at=DAY.end + 60, left=False), 61, False),
    ],
)
async def test_day_is_open_until_each_source_ended_or_was_active_after_it(
    ledger: SqlLedger, store: SqlGapStore, heartbeat: Heartbeat | None, after: float, complete: bool
) -> None:
    await record(ledger, event(source_seq=1))
    if heartbeat:
        await store.record_heartbeats({"gw-1": heartbeat})
    assert (await day_tokens(ledger, DAY.end + after)).complete is complete


async def test_event_after_the_day_closes_it(ledger: SqlLedger) -> None:
    await record(ledger, event(source_seq=1))
    assert not (await day_tokens(ledger, DAY.end + 61)).complete
    await record(ledger, event(source_seq=2, completed_at=DAY.end + 1), at=DAY.end + 2)
    assert (await day_tokens(ledger, DAY.end + 61)).complete


async def test_highest_written_number_of_a_source_is_kept(ledger: SqlLedger, store: SqlGapStore) -> None:
    for written in (5, 3):
        await store.record_heartbeats({"gw-1": Heartbeat(written=written, received_at=DAY.end - 10, left=False)})
    assert await numbers(store, DAY.end + 61) == [(1, 5)]


async def test_heartbeats_are_stored_from_the_bus(ledger: SqlLedger, store: SqlGapStore) -> None:
    bus = MemoryBus()
    heartbeats = SourceHeartbeats(bus, store, lambda: DAY.end - 10)
    await bus.subscribe(subjects.ACTIVITIES, heartbeats.on_activity)
    for written in (1, 4):
        activity = Activity(gateway="gw-1", sent_at=0.0, machines={}, written=written)
        await bus.publish_volatile(subjects.activity("gw-1"), encode(activity))
    await bus.publish_volatile(subjects.activity("gw-2"), b"junk")
    async with ledger._engine.begin() as connection:
        await connection.execute(text("ALTER TABLE sources RENAME TO away"))
    with pytest.raises(database.DATABASE_ERRORS):
        await heartbeats.flush()
    async with ledger._engine.begin() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO sources"))
    await heartbeats.flush()
    assert await numbers(store, DAY.end + 61) == [(1, 4)]


async def test_invalid_gap_queries_are_answered_with_the_reason(ledger: SqlLedger, store: SqlGapStore) -> None:
    queries = GapQueries(store, lambda: DAY.end)
    await record(ledger, event(source_seq=1), event(source_seq=4))
    assert [gap.last for gap in decode(await queries.handle_gaps(encode(GapsQuery())), Gaps).open] == [3]
    wrong = decode(await queries.handle_lost(encode(msgspec.structs.replace(LOST, last=9))), ErrorReply)
    assert wrong.reason == "gw-1: events 2 to 9 are not all missing: only 2 to 3 are missing"
    assert decode(await queries.handle_lost(b"{}"), ErrorReply).reason
    left = decode(await queries.handle_lost(encode(LOST)), Gaps)
    assert (left.open, [(lost.first, lost.by) for lost in left.lost]) == ((), [(2, "Ada")])
