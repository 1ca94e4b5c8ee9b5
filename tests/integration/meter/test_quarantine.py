"""Usage of unknown keys and gateways is quarantined, and counted once when it can be."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from services.meter.adapters import tables
from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.adapters.gap_store import SqlGapStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.quarantine_store import SqlQuarantineStore
from services.meter.app.known_names import KnownNames
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.app.recorder import Recorder
from services.meter.app.recount import QuarantineRecounter
from services.meter.core.batch import AHEAD_SECONDS
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import build_tokens
from services.meter.metrics import Metrics
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent, UsageSource
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import ErrorReply, Recounted, RecountQuery, Tokens, TokensQuery
from tests.integration.meter.test_ledger import ledger_on
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = parse_day("2026-11-23")
NOW = MIDNIGHT + 3600.0
KEEP = 40 * 86400.0


@dataclass
class Meter:
    """The part of a meter that vets events, on one ledger. `now` is its clock."""

    bus: MemoryBus
    ledger: SqlLedger
    now: float = NOW

    async def start(self) -> None:
        quarantine = SqlQuarantineStore(self.ledger._engine)
        self.names = KnownNames(self.bus, quarantine, lambda: 0.0)
        metrics = Metrics(CollectorRegistry())
        publisher = ProgressPublisher(self.bus, self.ledger, lambda: self.now)
        self.recorder = Recorder(
            self.ledger, publisher, metrics, self.names.vet, keep_events_s=KEEP, now=lambda: self.now
        )
        self.recount = QuarantineRecounter(quarantine, self.names, self.recorder, batch_size=2)
        await self.names.start()

    async def count(self, *sent: UsageEvent | bytes) -> None:
        await self.recorder.record([e if isinstance(e, bytes) else encode(e) for e in sent])

    async def sweep(self) -> None:
        await self.names.store_new_keys()
        await self.recount.recount_new_names()

    async def recount_all(self, reason: str | None = None) -> dict[str, int]:
        sums, after = {"counted": 0, "repeated": 0, "left": 0}, ""
        while True:
            page = decode(
                await self.recount.handle_recount(encode(RecountQuery(reason=reason, after=after))), Recounted
            )
            sums = {name: count + getattr(page, name) for name, count in sums.items()}
            if page.next is None:
                return sums
            after = page.next

    async def tokens(self) -> Tokens:
        facts, later = await self.ledger.read_day(DAY, (), busy=False), DAY.end + 86400.0
        return build_tokens(DAY, TokensQuery(day=DAY.name), facts, later, now=later, source_silence_s=60)

    async def rows(self, table: Any) -> list[Any]:
        async with database.read_transaction(self.ledger._engine) as connection:
            return list(await connection.execute(select(table)))


async def put_key(bus: MemoryBus, key_id: str) -> None:
    await bus.put(topology.KEYS, digest(f"sk-{key_id}"), encode(KeyRecord(id=key_id, name="n", created_at=0.0)))


async def put_source(bus: MemoryBus, source: str) -> None:
    await bus.put(topology.SOURCES, subjects.source_key(source), encode(UsageSource(source=source, at=0.0)))


@pytest.fixture
async def meter(ledger_url: str) -> AsyncIterator[Meter]:
    async with ledger_on(ledger_url) as ledger:
        meter = Meter(MemoryBus(), ledger)
        await put_key(meter.bus, "k1")
        await put_source(meter.bus, "gw-1")
        await meter.start()
        yield meter
        await meter.names.stop()


async def test_counted_key_stays_known_when_the_bus_lost_it(meter: Meter) -> None:
    first, second = event(source_seq=1), event(source_seq=2)
    await meter.count(first)  # and no sweep since the key was made
    after = Meter(MemoryBus(), meter.ledger)
    await after.start()
    await after.count(first, second)
    await after.names.stop()
    assert (await after.tokens()).totals == sums_of([first, second])
    assert await after.rows(tables.quarantine) == []


async def test_forged_message_is_on_nobodys_bill(meter: Meter) -> None:
    good = event(source_seq=1)
    forged = [event(source_seq=2, key_id="k9"), event("evil", 10**9, completed_at=NOW), event("evil", 3, status=-1)]
    await meter.count(good, *forged)
    tokens = await meter.tokens()
    assert tokens.totals == sums_of([good])
    assert sorted(r.kind for r in await meter.rows(tables.quarantine)) == ["invalid", "unknown_key", "unknown_source"]
    assert tokens.open_gaps == 1, "of the known gateway; the other one leaves no gap in any day"
    assert [r.source for r in await meter.rows(tables.sources)] == ["gw-1"]


async def test_new_key_and_gateway_are_known_when_the_watch_is_late(meter: Meter) -> None:
    meter.bus._watches.clear()
    await put_key(meter.bus, "k2")
    await put_source(meter.bus, "gw-2")
    sent = event("gw-2", 1, key_id="k2")
    await meter.count(sent)
    assert (await meter.tokens()).totals == sums_of([sent])


async def test_nothing_is_quarantined_while_the_bus_is_down(meter: Meter) -> None:
    meter.bus.connected = False
    with pytest.raises(BusUnavailable):
        await meter.count(event(key_id="k2"))
    assert await meter.rows(tables.quarantine) == []
    await meter.count(event(source_seq=1))
    assert len(await meter.rows(tables.events)) == 1, "what is known needs no bus"


async def test_stored_keys_and_gateways_stay_known_when_the_bus_lost_them(meter: Meter) -> None:
    await meter.count(event(source_seq=1))
    await meter.sweep()
    other = Meter(MemoryBus(), meter.ledger)
    await other.start()
    await other.count(event(source_seq=2))
    assert len(await meter.rows(tables.events)) == 2
    await other.names.stop()


async def test_quarantined_events_are_counted_when_their_name_becomes_known(meter: Meter) -> None:
    sent = [event("gw-2", 1), event("gw-1", 1, key_id="k2"), event("gw-1", 2, key_id="k3")]
    await meter.count(*sent)
    assert (await meter.tokens()).totals.requests == 0
    assert await meter.recount_all() == {"counted": 0, "repeated": 0, "left": 3}
    await put_key(meter.bus, "k2")
    meter.names.on_gateway("gw-2")
    await meter.sweep()
    assert (await meter.tokens()).totals == sums_of(sent[:2])
    await put_key(meter.bus, "k3")
    await meter.sweep()
    tokens = await meter.tokens()
    assert (tokens.totals, tokens.open_gaps) == (sums_of(sent), 0)
    assert await meter.recount_all() == {"counted": 0, "repeated": 0, "left": 0}
    await meter.count(*sent)
    assert await meter.rows(tables.conflicts) == []


async def test_event_from_the_future_counts_on_the_day_it_arrived(meter: Meter) -> None:
    ahead = [event(source_seq=n, completed_at=NOW + 3 * 86400.0 + n) for n in (1, 2, 3)]
    await meter.count(*ahead)
    assert ((await meter.tokens()).totals.requests, (await meter.tokens()).open_gaps) == (0, 3)
    meter.now = NOW + 600.0
    assert await meter.recount_all("old") == {"counted": 0, "repeated": 0, "left": 0}
    assert await meter.recount_all("future") == {"counted": 3, "repeated": 0, "left": 0}
    tokens = await meter.tokens()
    assert (tokens.totals, tokens.open_gaps) == (sums_of(ahead), 0)
    assert (await SqlGapStore(meter.ledger._engine).list_gaps(DAY.end)).open == ()
    meter.now = NOW + 5 * 86400.0
    await meter.count(*ahead)
    assert await meter.rows(tables.conflicts) == [], "the stream has them as they came"
    assert (await meter.tokens()).totals == sums_of(ahead)


async def test_quarantined_events_are_recounted_when_the_meters_clock_was_wrong(meter: Meter) -> None:
    sent = event(source_seq=1, completed_at=MIDNIGHT + 7200.0)
    meter.now = sent.completed_at - AHEAD_SECONDS - 60.0
    await meter.count(sent)
    meter.now = sent.completed_at + KEEP + 1.0
    await meter.count(event(source_seq=2, completed_at=sent.completed_at))
    assert {r.kind for r in await meter.rows(tables.quarantine)} == {"future", "old"}
    meter.now = sent.completed_at + 60.0
    assert (await meter.recount_all())["counted"] == 2, "too late by a clock that was ahead"
    assert await meter.recount_all() == {"counted": 0, "repeated": 0, "left": 0}


async def test_early_event_leaves_quarantine_when_repeated_in_its_time(meter: Meter) -> None:
    early = event(source_seq=1, completed_at=NOW + AHEAD_SECONDS + 1.0)
    await meter.count(early)
    assert (await meter.tokens()).open_gaps == 1
    meter.now += 2.0
    await meter.count(early)
    tokens = await meter.tokens()
    assert (tokens.totals, tokens.open_gaps) == (sums_of([early]), 0)
    assert await meter.recount_all() == {"counted": 0, "repeated": 0, "left": 0}


async def test_audit_ignores_messages_that_were_recounted(meter: Meter) -> None:
    events = [event(source_seq=n) for n in (1, 2, 3)]
    unknown, lost = event(source_seq=4, key_id="k9"), 5
    await meter.count(*events, unknown, event(source_seq=lost + 1))
    facts = SqlAuditStore(meter.ledger._engine)
    before = await facts.load_day(DAY)
    assert (before.quarantined, [s.missing for s in before.sources]) == (1, [1])
    await put_key(meter.bus, "k9")
    await meter.sweep()
    after = await facts.load_day(DAY)
    assert (after.quarantined, [s.missing for s in after.sources]) == (0, [1])


async def test_sealed_days_accept_no_recount(meter: Meter) -> None:
    await meter.count(event(source_seq=1, completed_at=NOW + 86400.0))
    async with meter.ledger._engine.begin() as connection:
        await connection.execute(update(tables.horizon).values(before=DAY.end))
    meter.now = DAY.end + 60.0
    assert await meter.recount_all() == {"counted": 0, "repeated": 0, "left": 1}
    assert (await meter.tokens()).open_gaps == 1


async def test_concurrent_recounts_count_once(meter: Meter) -> None:
    ahead = [event(source_seq=n, completed_at=NOW + 86400.0) for n in range(1, 8)]
    await meter.count(*ahead)
    await asyncio.gather(*(meter.recount_all() for _ in range(3)))
    tokens = await meter.tokens()
    assert (tokens.totals.requests, tokens.open_gaps) == (7, 0)


async def test_unknown_reason_is_rejected(meter: Meter) -> None:
    assert (
        "expected one of unreadable"
        in decode(await meter.recount.handle_recount(encode(RecountQuery(reason="other"))), ErrorReply).reason
    )
    assert decode(await meter.recount.handle_recount(b"["), ErrorReply).reason
