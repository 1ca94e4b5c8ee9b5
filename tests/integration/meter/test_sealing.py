"""Days whose events are no longer kept: every token stays counted, and none is counted again."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from sqlalchemy import func, select, text

from services.meter.adapters import sealing, tables
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.sealing import Sealer
from services.meter.core.batch import parse_batch
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import build_tokens
from services.meter.core.digest import DigestKey, digest_events
from shared import database
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Tokens, TokensQuery
from tests.integration.meter.test_ledger import ledger_on
from tests.kit.waiting import until
from tests.unit.meter.events import MIDNIGHT, event

DAY_SECONDS = 86400.0
KEEP = 40 * DAY_SECONDS
NOW = MIDNIGHT + 50 * DAY_SECONDS
DUE = NOW - KEEP
"""The start of the first day whose events are kept: the eleventh."""
EVENTS = [
    event(
        f"gw-{1 + n % 2}",
        1 + n // 2,
        completed_at=MIDNIGHT + 0.1 + n * 4321.7,
        duration=50.0,
        machine=f"m{n % 3}",
        key_id=f"k{n % 5}",
        outcome="failed" if n % 7 == 0 else "completed",
        prompt_tokens=n,
    )
    for n in range(400)
]
OLD = [e for e in EVENTS if e.completed_at < DUE]


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with ledger_on(ledger_url) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "EVENTS_PER_STEP", 7)


async def record(ledger: SqlLedger, sent: Sequence[UsageEvent]) -> Any:
    return await ledger.record(parse_batch([encode(e) for e in sent], NOW))


async def rows(ledger: SqlLedger, table: Any) -> list[Any]:
    async with database.read_transaction(ledger._engine) as connection:
        return list(await connection.execute(select(table)))


async def day_tokens(ledger: SqlLedger, number: int) -> Tokens:
    day = parse_day(f"2026-11-{23 + number}" if number < 8 else f"2026-12-{number - 7:02}")
    query = TokensQuery(day=day.name, by=("model", "key", "machine", "hour"), busy=True)
    return build_tokens(day, query, await ledger.read_day(day, query.by, busy=True), NOW, now=NOW, source_silence_s=60)


async def test_sealed_days_give_the_same_answers_and_have_digests(ledger: SqlLedger) -> None:
    await record(ledger, EVENTS)
    before = [await day_tokens(ledger, number) for number in range(20)]
    sealer = Sealer(ledger._engine, KEEP)
    assert await sealer.seal(NOW, max_steps=1000) == len(OLD)
    assert await sealer.step(NOW) is None
    assert {row.id for row in await rows(ledger, tables.events)} == {e.id for e in EVENTS} - {e.id for e in OLD}
    assert [await day_tokens(ledger, number) for number in range(20)] == before
    assert before[3].busy, "there is something to keep"
    digests = await rows(ledger, tables.digests)
    assert {sealing._key(row): sealing._digest(row) for row in digests} == digest_events(OLD)
    assert {row.day for row in digests} == {before[number].day for number in range(10)}


async def test_events_repeated_after_sealing_change_nothing(ledger: SqlLedger) -> None:
    await record(ledger, EVENTS)
    await Sealer(ledger._engine, KEEP).seal(NOW, max_steps=1000)
    before = [await day_tokens(ledger, number) for number in range(20)]
    recorded = await record(ledger, random.Random(1).sample(EVENTS, len(EVENTS)))
    assert (recorded.counted, recorded.quarantined) == (0, {"old": len(OLD)})
    assert not any(row.lacking for row in await rows(ledger, tables.quarantine))
    assert [await day_tokens(ledger, number) for number in range(20)] == before


async def test_sealing_continues_after_dying_in_any_step(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealer dies in each step before its commit, while gateways send everything again."""
    await record(ledger, EVENTS)
    sealer, deaths, done = Sealer(ledger._engine, KEEP), 0, False
    for number in range(500):
        with monkeypatch.context() as patched:
            patched.setattr(Sealer, "_add_digests", _dies)
            patched.setattr(Sealer, "_store_busy", _dies)
            try:
                done = await sealer.step(NOW) is None
            except RuntimeError:
                done, deaths = False, deaths + 1
        if done:
            break
        await sealer.step(NOW)
        if number % 10 == 0:
            assert (await record(ledger, EVENTS)).counted == 0
    assert done
    assert deaths > len(OLD) / 7
    digests = await rows(ledger, tables.digests)
    assert {sealing._key(row): sealing._digest(row) for row in digests} == digest_events(OLD)
    assert len(await rows(ledger, tables.events)) == len(EVENTS) - len(OLD)
    assert (await day_tokens(ledger, 3)).busy


async def _dies(*_arguments: object) -> None:
    raise RuntimeError("killed")


async def _horizon(ledger: SqlLedger) -> float:
    return float((await rows(ledger, tables.horizon))[0].before)


async def test_horizon_skips_empty_days_and_never_moves_back(ledger: SqlLedger) -> None:
    sealer = Sealer(ledger._engine, KEEP)
    assert await sealer.step(NOW) == 0
    assert await _horizon(ledger) == DUE
    assert await sealer.step(NOW) is None
    assert await sealer.step(NOW - 5 * DAY_SECONDS) is None
    assert await _horizon(ledger) == DUE
    await record(ledger, [event(completed_at=DUE + 3 * DAY_SECONDS + 5)])
    await sealer.seal(NOW + 3 * DAY_SECONDS, max_steps=50)
    assert await _horizon(ledger) == DUE + 3 * DAY_SECONDS
    assert await sealer.seal(NOW + 4 * DAY_SECONDS, max_steps=50) == 1


async def test_replicas_seal_and_write_concurrently(postgres_url: str) -> None:
    async with ledger_on(postgres_url) as first, ledger_on(postgres_url) as second:
        await record(first, EVENTS)

        async def seal(ledger: SqlLedger) -> int:
            return sum([await Sealer(ledger._engine, KEEP).seal(NOW, max_steps=5) for _ in range(60)])

        async def again(ledger: SqlLedger) -> None:
            for start in range(0, len(EVENTS), 25):
                await record(ledger, EVENTS[start : start + 25])

        gone = await asyncio.gather(seal(first), seal(second), again(first), again(second))
        sealed = int(gone[0] or 0) + int(gone[1] or 0) + await seal(first)
        assert sealed == len(OLD)
        sent = {sealing._key(row): sealing._digest(row) for row in await rows(first, tables.digests)}
        assert sent == digest_events(OLD)
        async with database.read_transaction(first._engine) as connection:
            counted = (await connection.execute(select(func.sum(tables.hours.c.requests)))).scalar_one()
        assert counted == len(EVENTS)


async def test_horizon_waits_for_writers_that_read_the_old_one(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated event accepted just before its day is sealed must not count after its row is deleted."""
    async with ledger_on(postgres_url) as first, ledger_on(postgres_url) as second:
        await record(first, OLD[:1])
        reading, going = asyncio.Event(), asyncio.Event()
        lock = second._lock

        async def waits(*arguments: Any) -> None:
            reading.set()
            await going.wait()
            await lock(*arguments)

        monkeypatch.setattr(second, "_lock", waits)
        again = asyncio.create_task(record(second, OLD[:1]))
        await reading.wait()
        sealing_it = asyncio.create_task(Sealer(first._engine, KEEP).seal(NOW, max_steps=50))
        await until(lambda: _waiting(first), lambda waits: waits or sealing_it.done())
        going.set()
        assert (await again).counted == 0
        assert await sealing_it == 1


async def _waiting(ledger: SqlLedger) -> bool:
    async with database.read_transaction(ledger._engine) as connection:
        sent = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        return bool(sent.scalar_one())


def test_digest_is_independent_of_order_and_detects_a_change() -> None:
    shuffled = random.Random(2).sample(OLD, len(OLD))
    assert digest_events(shuffled) == digest_events(OLD)
    other = [event("gw-9", 1, completed_at=MIDNIGHT), *OLD[1:]]
    assert digest_events(other) != digest_events(OLD)
    assert isinstance(next(iter(digest_events(OLD))), DigestKey)
