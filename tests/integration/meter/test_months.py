"""The keys' months on real databases: they equal a plain recount of the ledger's events."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.meter.adapters import tables
from services.meter.adapters.ledger import SqlLedger
from services.meter.core.batch import parse_batch
from services.meter.core.rollups import MonthKey
from shared import database
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from tests.integration.meter.test_ledger import ledger_on
from tests.unit.meter.events import event

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
NOW = DECEMBER + 32 * 86400.0
MONTHS = ("2026-10", "2026-11", "2026-12", "2027-01")


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with ledger_on(ledger_url) as opened:
        yield opened


async def record(ledger: SqlLedger, *sent: UsageEvent) -> dict[MonthKey, int]:
    return (await ledger.record(parse_batch([encode(e) for e in sent], NOW))).months


def recounted(sent: Sequence[UsageEvent]) -> dict[MonthKey, int]:
    """Count by the standard library's calendar, without the meter's sums."""
    tokens: Counter[MonthKey] = Counter()
    for e in {e.id: e for e in reversed(sent)}.values():
        if e.outcome != "failed":
            month = f"{datetime.fromtimestamp(e.completed_at, UTC):%Y-%m}"
            tokens[MonthKey(month, e.key_id)] += e.prompt_tokens + e.completion_tokens
    return dict(tokens)


async def test_batch_adds_to_months_and_returns_their_totals(ledger: SqlLedger) -> None:
    first = [event(source_seq=1, completed_at=DECEMBER - 0.001), event(source_seq=2, completed_at=DECEMBER)]
    assert await record(ledger, *first) == {MonthKey("2026-11", "k1"): 17, MonthKey("2026-12", "k1"): 17}
    late = event("gw-2", 1, completed_at=DECEMBER - 9, prompt_tokens=0, completion_tokens=1, outcome="client_closed")
    other = event("gw-2", 2, completed_at=DECEMBER, key_id="org/ä ☃")
    failed = event("gw-2", 3, completed_at=DECEMBER, outcome="failed")
    assert await record(ledger, late, other, failed) == {
        MonthKey("2026-11", "k1"): 18,
        MonthKey("2026-12", "org/ä ☃"): 17,
    }
    assert await ledger.read_months(["2026-12"]) == {MonthKey("2026-12", "k1"): 17, MonthKey("2026-12", "org/ä ☃"): 17}
    assert await ledger.read_months(["2026-11", "2027-01"]) == {MonthKey("2026-11", "k1"): 18}


async def test_repeated_events_change_nothing_and_return_their_month(ledger: SqlLedger) -> None:
    sent = [event(source_seq=n, completed_at=DECEMBER + n, key_id=f"k{n % 2}") for n in range(1, 5)]
    await record(ledger, *sent)
    assert await record(ledger, sent[0], sent[0]) == {MonthKey("2026-12", "k1"): 34}
    assert await record(ledger, *sent[::-1]) == recounted(sent) == await ledger.read_months(MONTHS)


async def test_conflicting_payload_counts_in_no_month(ledger: SqlLedger) -> None:
    first = event(completed_at=DECEMBER)
    other = msgspec.structs.replace(first, key_id="k2", completed_at=DECEMBER - 1, prompt_tokens=99)
    assert await record(ledger, first, other) == {MonthKey("2026-12", "k1"): 17}
    assert await record(ledger, other) == {MonthKey("2026-12", "k1"): 17}
    assert await ledger.read_months(MONTHS) == recounted([first])


async def test_failed_transaction_adds_to_no_month(ledger: SqlLedger) -> None:
    await record(ledger, event(source_seq=1, completed_at=DECEMBER))
    async with ledger._engine.begin() as connection:
        await connection.run_sync(tables.quarantine.drop)
    with pytest.raises(database.DATABASE_ERRORS):
        await ledger.record(parse_batch([encode(event(source_seq=2, completed_at=DECEMBER)), b"junk"], NOW))
    assert await ledger.read_months(MONTHS) == {MonthKey("2026-12", "k1"): 17}


moments = st.sampled_from([-40 * 86400.0, -1.0, -0.001, 0.0, 1.0, 31 * 86400.0 - 0.5, 31 * 86400.0])
outcomes = st.sampled_from(["completed", "client_closed", "engine_lost", "failed"])
drawn = st.builds(
    lambda number, key, at, outcome, prompt, completion: event(
        source_seq=number,
        key_id=key,
        completed_at=DECEMBER + at,
        outcome=outcome,
        prompt_tokens=prompt,
        completion_tokens=completion,
    ),
    st.integers(1, 30),
    st.sampled_from(["k1", "k2", "k3"]),
    moments,
    outcomes,
    st.integers(0, 1000),
    st.integers(0, 2**39),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(drawn, max_size=50), batch=st.integers(1, 9))
async def test_months_equal_a_recount_in_any_order_repetition_and_conflict(
    ledger: SqlLedger, order: list[UsageEvent], batch: int
) -> None:
    async with ledger._engine.begin() as connection:
        for table in (tables.events, tables.rollups, tables.sources, tables.runs, tables.key_months):
            await connection.execute(table.delete())
    for start in range(0, len(order), batch):
        written = await record(ledger, *order[start : start + batch])
        expected = recounted(order[: start + batch])
        assert written.items() <= expected.items()
        assert await ledger.read_months(MONTHS) == expected


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_replicas_add_each_event_once(postgres_url: str, seed: int) -> None:
    """Several sources' events of the same keys, overlapping and in opposite orders, from two replicas."""
    sent = [
        event(f"gw-{s}", n, completed_at=DECEMBER + n - 20, key_id=f"k{n % 7}") for s in range(5) for n in range(40)
    ]
    sent = [msgspec.structs.replace(e, source_seq=e.source_seq + 1) for e in sent]
    async with ledger_on(postgres_url) as first, ledger_on(postgres_url) as second:
        work = []
        for start in range(0, len(sent), 20):
            part = sent[max(0, start - 10 - seed) : start + 20]
            work += [record(first, *part), record(second, *part[::-1])]
        written = await asyncio.gather(*work)
        expected = recounted(sent)
        assert await second.read_months(MONTHS) == expected
        assert all(max(months.get(key, 0) for months in written) == tokens for key, tokens in expected.items())
