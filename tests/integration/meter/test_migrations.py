"""Ledgers of every earlier version, with data, migrate to the newest."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from alembic import command
from sqlalchemy import MetaData, func, insert, select

from services.meter.adapters import tables
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.core.batch import parse_batch
from services.meter.core.day import parse_day
from services.meter.core.day_tokens import build_tokens
from services.meter.core.rollups import (
    HourKey,
    MinuteKey,
    MonthKey,
    hour_rollups,
    key_month_tokens,
    minute_rollups,
    minute_totals,
)
from services.meter.core.sequence_ranges import merge_ranges, single_range
from shared import database, schema
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokensQuery, TokenSums
from tests.unit.meter.events import event, sums_of

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
NOW = DECEMBER + 40 * 86400.0
VERSIONS = sorted(script.stem[:4] for script in (MIGRATIONS / "versions").glob("0*.py"))
OFFSETS = (-400 * 86400.0, -40 * 86400.0, -61.0, -0.001, 0.0, 61.0, 3600.0, 31 * 86400.0 - 0.001, 31 * 86400.0)
EVENTS = [
    event(
        f"gw-{key}",
        n,
        key_id=f"k{key}",
        completed_at=DECEMBER + at,
        outcome=outcome,
        model=f"m-{outcome}",
        max_tokens=16,
        body_bytes=200,
    )
    for key in (1, 2)
    for n, (at, outcome) in enumerate(
        [(at, outcome) for at in OFFSETS[key - 1 :] for outcome in ("completed", "failed", "client_closed")], 1
    )
]


async def migrate_to(engine: Any, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, _revision: upgrade(config, version))
        await schema.migrate(engine, MIGRATIONS, version_table=VERSION_TABLE)


def as_recorded(recorded_events: Sequence[UsageEvent]) -> dict[str, list[dict[str, Any]]]:
    """Return by table the rows that these events make; each version stores the columns that it has."""
    minutes = minute_rollups(recorded_events)
    sources = {e.source for e in recorded_events}
    runs = {
        s: merge_ranges(single_range(e.source_seq, e.completed_at) for e in recorded_events if e.source == s)
        for s in sources
    }
    strange: dict[str, Any] = {"payload": b"x", "reason": "r", "source": None, "at": DECEMBER, "received_at": DECEMBER}
    return {
        "events": [msgspec.structs.asdict(e) for e in recorded_events],
        "rollups": [{**asdict(key), **msgspec.structs.asdict(sums)} for key, sums in minutes.items()],
        "hours": [{**asdict(key), **msgspec.structs.asdict(sums)} for key, sums in hour_rollups(minutes).items()],
        "key_months": [
            {**asdict(key), "tokens": tokens}
            for key, tokens in key_month_tokens(recorded_events, {e.id for e in recorded_events}).items()
        ],
        "minutes": [{**asdict(key), **msgspec.structs.asdict(sums)} for key, sums in minute_totals(minutes).items()],
        "sources": [{"source": source, "seen_at": DECEMBER, "left": False} for source in sources],
        "runs": [{"source": source, **asdict(run)} for source in sources for run in runs[source]],
        "quarantine": [
            strange | {"sha256": "a", "source_seq": None, "kind": "unreadable", "lacking": False},
            strange | {"sha256": "b", "source": "gw-9", "source_seq": 1, "kind": "unreadable", "lacking": True},
        ],
    }


async def fill(engine: Any) -> None:
    async with engine.begin() as connection:
        there = MetaData()
        await connection.run_sync(there.reflect)
        for name, rows in as_recorded(EVENTS).items():
            if name in there.tables:
                table = there.tables[name]
                known = [{column: value for column, value in row.items() if column in table.c} for row in rows]
                await connection.execute(insert(table), known)


async def rows(engine: Any, table: Any) -> list[Any]:
    async with database.read_transaction(engine) as connection:
        return list(await connection.execute(select(table)))


async def check(engine: Any) -> None:
    ledger = SqlLedger(engine)
    for name in sorted({datetime.fromtimestamp(e.completed_at, UTC).date().isoformat() for e in EVENTS}):
        day = parse_day(name)
        facts = await ledger.read_day(day, ("model", "key"), busy=False)
        expected = [e for e in EVENTS if day.start <= e.completed_at < day.end]
        tokens_of_day = build_tokens(
            day, TokensQuery(day=name, by=("model", "key")), facts, NOW, now=NOW, source_silence_s=60
        )
        assert tokens_of_day.totals == sums_of(expected), name
        assert facts.quarantined == (day.start == DECEMBER), "what has no number is no gap"
    hours = {
        HourKey(r.hour, r.model, r.tier, r.machine, r.key_id, r.outcome): TokenSums(
            **{name: getattr(r, name) for name in tables.COUNTS}
        )
        for r in await rows(engine, tables.hours)
    }
    assert hours == hour_rollups(minute_rollups(EVENTS))
    months = {MonthKey(r.month, r.key_id): r.tokens for r in await rows(engine, tables.key_months)}
    assert months == key_month_tokens(EVENTS, {e.id for e in EVENTS})
    minutes = {
        MinuteKey(r.minute, r.model, r.tier, r.outcome): TokenSums(**{name: getattr(r, name) for name in tables.COUNTS})
        for r in await rows(engine, tables.minutes)
    }
    assert minutes == minute_totals(minute_rollups(EVENTS))
    assert {r.kind for r in await rows(engine, tables.quarantine)} == {"unreadable"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_data_of_an_earlier_version_is_kept_by_the_migration(
    database_url: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    engine = database.create_engine(database_url)
    try:
        await migrate_to(engine, version, monkeypatch)
        await fill(engine)
        await asyncio.gather(*(schema.migrate(engine, MIGRATIONS, version_table=VERSION_TABLE) for _ in range(2)))
        await check(engine)
        recorded = await SqlLedger(engine).record(parse_batch([encode(e) for e in EVENTS], NOW))
        assert (recorded.counted, recorded.repeated) == (0, len(EVENTS))
        await check(engine)
        more = event("gw-1", len(EVENTS) + 1, completed_at=DECEMBER, key_id="k1")
        assert (await SqlLedger(engine).record(parse_batch([encode(more)], NOW))).months == {
            MonthKey("2026-12", "k1"): 17 + key_month_tokens(EVENTS, {e.id for e in EVENTS})[MonthKey("2026-12", "k1")]
        }
        async with database.read_transaction(engine) as connection:
            requests = (await connection.execute(select(func.sum(tables.hours.c.requests)))).scalar_one()
        assert requests == len(EVENTS) + 1
    finally:
        await engine.dispose()
