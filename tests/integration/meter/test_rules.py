"""Events that are quarantined, or counted and reported: each has its row and its metric, on both databases."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from services.meter.adapters import tables
from services.meter.adapters.ledger import SqlLedger
from services.meter.app.consumer import Consumer
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.app.recorder import Recorder
from services.meter.core.batch import AHEAD_SECONDS, parse_batch
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import build_tokens
from services.meter.metrics import Metrics
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Tokens, TokensQuery
from tests.integration.meter.test_consumer import anybody
from tests.integration.meter.test_ledger import ledger_on
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = parse_day("2026-11-23")
NOW = DAY.end + 3600.0
KEEP = 40 * 86400.0


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with ledger_on(ledger_url) as opened:
        yield opened


async def rows(ledger: SqlLedger, table: Any) -> list[Any]:
    async with database.read_transaction(ledger._engine) as connection:
        return list(await connection.execute(select(table)))


async def day_tokens(ledger: SqlLedger, name: str, now: float = NOW) -> Tokens:
    facts = await ledger.read_day(parse_day(name), (), busy=False)
    return build_tokens(parse_day(name), TokensQuery(day=name), facts, now, now=now, source_silence_s=60)


async def consumed(ledger: SqlLedger, *payloads: bytes) -> CollectorRegistry:
    """Consume these messages and return the metrics."""
    bus, registry, stop_checks = MemoryBus(), CollectorRegistry(), iter((False, True))

    async def stopped() -> None:
        if not next(stop_checks, True):
            raise TimeoutError

    for payload in payloads:
        await bus.publish(subjects.usage("gw-1"), payload)
    publisher = ProgressPublisher(bus, ledger, lambda: NOW)
    recorder = Recorder(ledger, publisher, Metrics(registry), anybody, keep_events_s=KEEP, now=lambda: NOW)
    await Consumer(bus, recorder, batch_size=100, monotonic=lambda: 0.0, stopped=stopped).run()
    assert await bus.backlog(topology.LEDGER) == 0
    return registry


@pytest.mark.parametrize(
    ("odd", "kind", "day"),
    [
        (event(source_seq=2, completed_at=NOW + AHEAD_SECONDS + 1), "future", "2026-11-24"),
        (event(source_seq=2, completed_at=NOW - KEEP - 1), "old", "2026-10-15"),
        (event(source_seq=2, status=-1), "invalid", "2026-11-23"),
    ],
)
async def test_quarantined_event_has_its_row_metric_and_day(
    ledger: SqlLedger, odd: UsageEvent, kind: str, day: str
) -> None:
    good = [event(source_seq=1), event(source_seq=3)]
    metrics = await consumed(ledger, *map(encode, [*good, odd]))
    assert metrics.get_sample_value("spot_meter_quarantined_total", {"reason": kind}) == 1
    assert metrics.get_sample_value("spot_meter_messages_total", {"kind": "quarantined"}) == 1
    assert metrics.get_sample_value("spot_meter_messages_total", {"kind": "counted"}) == 2
    (row,) = await rows(ledger, tables.quarantine)
    assert (row.kind, row.payload, row.source_seq, row.lacking) == (kind, encode(odd), 2, True)
    assert await ledger.read_marks(0) == {"gw-1": 3}, "its source need not keep it"
    sent = await day_tokens(ledger, day)
    assert (sent.open_gaps, sent.complete) == (1, False)
    assert {e.id for e in await rows(ledger, tables.events)} == {e.id for e in good}


@pytest.mark.parametrize("edge", [NOW + AHEAD_SECONDS, NOW - KEEP])
async def test_events_at_the_time_bounds_are_counted(ledger: SqlLedger, edge: float) -> None:
    await consumed(ledger, encode(event(completed_at=edge)))
    assert (len(await rows(ledger, tables.events)), await rows(ledger, tables.quarantine)) == (1, [])


async def test_counted_event_repeated_too_late_is_not_missing(ledger: SqlLedger) -> None:
    sent = event(source_seq=1)
    await ledger.record(parse_batch([encode(sent)], NOW))
    recorded = await ledger.record(parse_batch([encode(sent)], NOW + KEEP, keep_s=KEEP))
    assert (recorded.counted, recorded.quarantined) == (0, {"old": 1})
    (row,) = await rows(ledger, tables.quarantine)
    assert not row.lacking
    later = await day_tokens(ledger, DAY.name, NOW + 2 * KEEP)
    assert (later.complete, later.totals) == (True, sums_of([sent]))


async def test_invalid_messages_of_one_number_are_missing_once(ledger: SqlLedger) -> None:
    odd = [encode(event(source_seq=1, status=-n)) for n in (1, 2, 3)]
    await ledger.record(parse_batch(odd[:2], NOW))
    await ledger.record(parse_batch(odd[1:], NOW))
    assert sorted(row.lacking for row in await rows(ledger, tables.quarantine)) == [False, False, True]
    assert (await day_tokens(ledger, DAY.name)).open_gaps == 1


async def test_batch_is_checked_against_the_horizon_at_its_commit(ledger: SqlLedger) -> None:
    batch = parse_batch([encode(event(source_seq=n, completed_at=MIDNIGHT + n)) for n in (1, 2)], NOW, keep_s=KEEP)
    async with ledger._engine.begin() as connection:
        await connection.execute(update(tables.horizon).values(before=MIDNIGHT + 2))
    recorded = await ledger.record(batch)
    assert (recorded.counted, recorded.quarantined, recorded.marks) == (1, {"old": 1}, {"gw-1": 2})


async def test_unknown_models_are_counted_and_reported(ledger: SqlLedger) -> None:
    ledger._models = frozenset({"qwen"})
    sent = [
        event(source_seq=1),
        event(source_seq=2, model="gone", completed_at=MIDNIGHT + 9),
        event(source_seq=3, model="gone", completed_at=MIDNIGHT + 5),
    ]
    metrics = await consumed(ledger, *map(encode, sent))
    assert metrics.get_sample_value("spot_meter_unknown_total", {"what": "model"}) == 2
    assert (await day_tokens(ledger, DAY.name)).totals == sums_of(sent)
    expected = ("model", "gone", 2, MIDNIGHT + 5, MIDNIGHT + 9)
    assert [tuple(row) for row in await rows(ledger, tables.unknowns)] == [expected]
    again = await consumed(ledger, *map(encode, sent))
    assert again.get_sample_value("spot_meter_unknown_total", {"what": "model"}) is None, "only what is new"
    await consumed(ledger, encode(event(source_seq=4, model="gone", completed_at=MIDNIGHT + 1)))
    expected = ("model", "gone", 3, MIDNIGHT + 1, MIDNIGHT + 9)
    assert [tuple(row) for row in await rows(ledger, tables.unknowns)] == [expected]


async def test_stored_event_with_more_cached_than_prompt_tokens_breaks_no_sum(ledger: SqlLedger) -> None:
    """Earlier versions recorded the engines' numbers unchecked."""
    odd = event(source_seq=1, prompt_tokens=7, cached_tokens=99, completion_tokens=5, reasoning_tokens=9)
    await ledger.record(parse_batch([encode(event(source_seq=1))], NOW))
    async with ledger._engine.begin() as connection:
        for table in (tables.events, tables.rollups, tables.hours):
            counts = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
            await connection.execute(update(table).values({name: getattr(odd, name) for name in counts}))
    facts = await ledger.read_day(DAY, ("model",), busy=False)
    query = TokensQuery(day=DAY.name, by=("model", "direction"))
    day_tokens = build_tokens(DAY, query, facts, NOW, now=NOW, source_silence_s=60)
    assert (day_tokens.totals.prompt_tokens, day_tokens.totals.cached_tokens, day_tokens.totals.reasoning_tokens) == (
        7,
        7,
        5,
    )
    assert [row.sums.prompt_tokens for row in day_tokens.rows] == [7, 0, 0]
    again = await ledger.record(parse_batch([encode(odd)], NOW))
    assert (again.repeated, again.conflicts) == (1, 0)
