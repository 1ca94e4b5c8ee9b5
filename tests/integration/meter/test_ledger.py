"""The ledger on real databases: every event counts once, in any order and repetition."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, inspect, select, text

from services.meter.adapters import tables
from services.meter.adapters.gap_store import SqlGapStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.adapters.tables import conflicts, events, quarantine, rollups
from services.meter.core.batch import parse_batch
from services.meter.core.day import Day, parse_day
from services.meter.core.day_tokens import DayFacts, build_tokens
from services.meter.core.rollups import add_sums
from services.meter.ports import NAMES_PER_QUERY
from shared import database
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokensQuery, TokenSums
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = parse_day("2026-11-23")
NOW = DAY.end + 5 * 86400.0
MOST_PARAMETERS = 32_767
"""Of a statement on PostgreSQL; SQLite takes one less."""


@asynccontextmanager
async def ledger_on(url: str) -> AsyncIterator[SqlLedger]:
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield SqlLedger(engine)


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with ledger_on(ledger_url) as opened:
        yield opened


def payloads(sent: Sequence[UsageEvent]) -> list[bytes]:
    return [encode(e) for e in sent]


async def facts(ledger: SqlLedger, *by: str, day: Day = DAY) -> DayFacts:
    return await ledger.read_day(day, by, busy=True)


async def rows(ledger: SqlLedger, table: Any) -> list[Any]:
    async with database.read_transaction(ledger._engine) as connection:
        return list(await connection.execute(select(table)))


async def gaps(ledger: SqlLedger) -> list[tuple[str, int, int]]:
    gaps = await SqlGapStore(ledger._engine).list_gaps(NOW)
    return [(gap.source, gap.first, gap.last) for gap in gaps.open if gap.quarantined is None]


async def totals(ledger: SqlLedger) -> TokenSums:
    return build_tokens(DAY, TokensQuery(day=DAY.name), await facts(ledger), None, now=NOW, source_silence_s=60).totals


async def test_tables_match_the_migrations(ledger: SqlLedger) -> None:
    async with database.read_transaction(ledger._engine) as connection:
        made = await connection.run_sync(lambda c: {t: inspect(c).get_columns(t) for t in tables.metadata.tables})
    for name, table in tables.metadata.tables.items():
        assert {c["name"] for c in made[name]} == set(table.columns.keys()), name
    assert set(tables.events.columns.keys()) == set(UsageEvent.__struct_fields__), "no field is lost"


async def test_batch_is_counted_and_its_marks_returned(ledger: SqlLedger) -> None:
    sent = [event("gw-1", n) for n in (1, 2, 3)] + [event("gw-2", n) for n in (1, 3, 4)]
    recorded = await ledger.record(parse_batch(payloads(sent), NOW))
    assert (recorded.counted, recorded.repeated, recorded.conflicts, recorded.quarantined) == (6, 0, 0, {})
    assert recorded.marks == {"gw-1": 3, "gw-2": 1}
    assert await ledger.read_marks(since=NOW) == {"gw-1": 3, "gw-2": 1}
    assert await ledger.read_marks(since=NOW + 1) == {}
    assert await totals(ledger) == sums_of(sent)
    assert await gaps(ledger) == [("gw-2", 2, 2)]


async def test_repeated_events_are_not_counted_again(ledger: SqlLedger) -> None:
    sent = [event(source_seq=n) for n in range(1, 6)]
    await ledger.record(parse_batch(payloads(sent[:3]), NOW))
    recorded = await ledger.record(parse_batch(payloads(sent + sent[2:]), NOW))
    assert (recorded.counted, recorded.repeated, recorded.conflicts) == (2, 6, 0)
    assert await totals(ledger) == sums_of(sent)
    assert await gaps(ledger) == []


async def test_events_are_stored_unchanged(ledger: SqlLedger) -> None:
    odd = event(
        completed_at=MIDNIGHT + 0.1 + 0.2,
        model="org/ä ☃",
        wake_id="w-1",
        first_token=None,
        streamed=False,
        duration=1e-9,
        prompt_tokens=2**39,
        moved_from="l4x2-2",
        choices=3,
        max_tokens=2**33,
        body_bytes=2**28,
        operation="embeddings",
    )
    await ledger.record(parse_batch([encode(odd)], NOW))
    (row,) = await rows(ledger, events)
    assert UsageEvent(**row._mapping) == odd


async def test_first_payload_of_an_id_counts_and_others_are_stored_as_conflicts(ledger: SqlLedger) -> None:
    first = event(prompt_tokens=10)
    other = msgspec.structs.replace(first, prompt_tokens=11)
    assert (await ledger.record(parse_batch(payloads([first]), NOW))).conflicts == 0
    assert (await ledger.record(parse_batch(payloads([other, first, other]), NOW))).conflicts == 1
    assert (await ledger.record(parse_batch(payloads([other]), NOW))).conflicts == 0, "told once"
    assert await totals(ledger) == sums_of([first])
    assert [row.payload for row in await rows(ledger, conflicts)] == [encode(other)]


async def test_event_stored_without_bounds_by_an_older_meter_is_no_conflict(ledger: SqlLedger) -> None:
    first = event()
    again = msgspec.structs.replace(first, max_tokens=16, body_bytes=200)
    await ledger.record(parse_batch(payloads([first]), NOW))
    recorded = await ledger.record(parse_batch(payloads([again]), NOW))
    assert (recorded.repeated, recorded.conflicts) == (1, 0)
    other = msgspec.structs.replace(again, prompt_tokens=11)
    assert (await ledger.record(parse_batch(payloads([other]), NOW))).conflicts == 1


async def test_event_stored_without_its_operation_by_an_older_meter_is_no_conflict(ledger: SqlLedger) -> None:
    await ledger.record(parse_batch(payloads([event(operation="")]), NOW))
    recorded = await ledger.record(parse_batch(payloads([event(operation="chat")]), NOW))
    assert (recorded.repeated, recorded.conflicts) == (1, 0)


async def test_conflict_within_one_batch_is_detected(ledger: SqlLedger) -> None:
    first = event(prompt_tokens=10)
    other = msgspec.structs.replace(first, prompt_tokens=11)
    recorded = await ledger.record(parse_batch(payloads([first, other]), NOW))
    assert (recorded.counted, recorded.conflicts) == (1, 1)
    assert await totals(ledger) == sums_of([first])


async def test_unreadable_messages_are_quarantined_and_block_nothing(ledger: SqlLedger) -> None:
    good = [event(source_seq=1), event(source_seq=3)]
    strange = encode(event(source_seq=2)).replace(b'"completed"', b'"nev\\u0000er"')
    junk = [b"", b"\xff\x00", b"[]", b'{"type":"usage.v9"}', strange]
    recorded = await ledger.record(parse_batch([*payloads(good), *junk], NOW))
    assert (recorded.counted, recorded.quarantined, recorded.marks) == (2, {"unreadable": 5}, {"gw-1": 3})
    assert (await ledger.record(parse_batch(junk, NOW))).quarantined == {}, "kept once"
    assert {row.payload for row in await rows(ledger, quarantine)} == set(junk)
    assert all(row.reason for row in await rows(ledger, quarantine))
    day = await facts(ledger)
    assert (await gaps(ledger), day.quarantined) == ([], 1), "its source may forget it, but its day lacks it"
    assert (
        build_tokens(DAY, TokensQuery(day=DAY.name), day, DAY.end + 61, now=NOW, source_silence_s=60).complete is False
    )


async def test_tokens_are_summed_by_every_dimension(ledger: SqlLedger) -> None:
    sent = [
        event(source_seq=1, model="a", key_id="x"),
        event(source_seq=2, model="b", key_id="x", outcome="failed", completion_tokens=0),
        event(source_seq=3, model="a", key_id="y", outcome="client_closed", machine="l4x2-2"),
        event(source_seq=4, completed_at=MIDNIGHT - 0.001),
        event(source_seq=5, completed_at=DAY.end),
    ]
    await ledger.record(parse_batch(payloads(sent), NOW))
    by = ("model", "tier", "key", "machine", "outcome")
    got = build_tokens(
        DAY, TokensQuery(day=DAY.name, by=by), await facts(ledger, *by), None, now=NOW, source_silence_s=60
    )
    assert got.totals == sums_of(sent[:3])
    assert got.served == sums_of([sent[0], sent[2]])
    assert {tuple(row.dimensions.values()): row.sums for row in got.rows} == {
        ("a", "l4x2", "x", "l4x2-1", "completed"): sums_of(sent[:1]),
        ("b", "l4x2", "x", "l4x2-1", "failed"): sums_of(sent[1:2]),
        ("a", "l4x2", "y", "l4x2-2", "client_closed"): sums_of(sent[2:3]),
    }
    by_key = build_tokens(
        DAY, TokensQuery(day=DAY.name, by=("key",)), await facts(ledger, "key"), None, now=NOW, source_silence_s=60
    )
    assert [(row.dimensions, row.sums.requests) for row in by_key.rows] == [({"key": "x"}, 2), ({"key": "y"}, 1)]


async def test_sums_of_one_key_still_report_all_gaps(ledger: SqlLedger) -> None:
    sent = [event(source_seq=n, key_id=key, model=f"m{n % 2}") for n, key in ((1, "x"), (2, "y"), (4, "x"))]
    await ledger.record(parse_batch(payloads(sent), NOW))
    query = TokensQuery(day=DAY.name, by=("model",), key="x")
    only = await ledger.read_day(DAY, query.by, busy=False, keys=("x",))
    got = build_tokens(DAY, query, only, None, now=NOW, source_silence_s=60)
    assert got.totals == sums_of([sent[0], sent[2]])
    assert [(row.dimensions["model"], row.sums.requests) for row in got.rows] == [("m0", 1), ("m1", 1)]
    assert got.open_gaps == 1
    nobody = await ledger.read_day(DAY, ("model",), busy=False, keys=("x' OR 1",))
    assert not nobody.sums
    both = await ledger.read_day(DAY, ("key",), busy=False, keys=("x", "y"))
    assert {key: sums.requests for (key, _), sums in both.sums.items()} == {"x": 2, "y": 1}


@pytest.mark.parametrize("by", [("minute",), ("model", "minute"), ("hour", "minute", "outcome"), ("minute", "tier")])
async def test_minute_sums_are_the_same_with_and_without_machines_and_keys(
    ledger: SqlLedger, by: tuple[str, ...]
) -> None:
    sent = [
        event(
            source_seq=n,
            completed_at=MIDNIGHT - 60 + n * 20.0,
            model=f"m{n % 2}",
            key_id=f"k{n % 3}",
            machine=f"l4x2-{n % 5}",
            outcome="failed" if n % 7 == 0 else "completed",
        )
        for n in range(40)
    ]
    for start in range(0, 40, 11):
        await ledger.record(parse_batch(payloads(sent[start : start + 11]), NOW))
    few, whole = await facts(ledger, *by), await facts(ledger, *by, "machine", "key")
    added: dict[tuple[str, ...], TokenSums] = {}
    for (*values, _machine, _key, outcome), sums in whole.sums.items():
        added[*values, outcome] = add_sums(added.get((*values, outcome), TokenSums()), sums)
    assert few.sums == added
    assert sum(sums.requests for sums in few.sums.values()) == 37, "of the day alone"
    only = await ledger.read_day(DAY, by, busy=False, keys=("k1",))
    assert sum(sums.requests for sums in only.sums.values()) == sum(e.key_id == "k1" for e in sent[3:])


async def test_busy_intervals_are_merged_and_exclude_the_wake_wait(ledger: SqlLedger) -> None:
    sent = [
        event(source_seq=1, completed_at=MIDNIGHT + 5, duration=10),
        event(source_seq=2, completed_at=MIDNIGHT + 100, duration=60, wake_wait=50),
        event(source_seq=3, completed_at=MIDNIGHT + 95, duration=10),
        event(source_seq=4, completed_at=DAY.end + 5, duration=10),
        event(source_seq=5, completed_at=MIDNIGHT + 50, duration=1, machine="l4x2-2"),
        event(source_seq=6, completed_at=MIDNIGHT - 1, duration=10, machine="l4x2-3"),
    ]
    await ledger.record(parse_batch(payloads(sent), NOW))
    assert (await facts(ledger)).busy == {
        "l4x2-1": [(MIDNIGHT, MIDNIGHT + 5), (MIDNIGHT + 85, MIDNIGHT + 100), (DAY.end - 5, DAY.end)],
        "l4x2-2": [(MIDNIGHT + 49, MIDNIGHT + 50)],
    }


async def test_batch_may_exceed_a_statements_parameters(ledger: SqlLedger) -> None:
    sent = [event(source_seq=n, model=f"m{n}") for n in range(1, 1501)]
    assert len(sent) * len(events.columns) > MOST_PARAMETERS
    assert len(sent) > NAMES_PER_QUERY
    first = await ledger.record(parse_batch(payloads(sent), NOW))
    again = await ledger.record(parse_batch(payloads(sent), NOW))
    assert (first.counted, first.marks) == (1500, {"gw-1": 1500})
    assert (again.counted, again.repeated, again.conflicts) == (0, 1500, 0)


async def test_failed_transaction_leaves_nothing(ledger: SqlLedger) -> None:
    async with ledger._engine.begin() as connection:
        await connection.execute(text("ALTER TABLE rollups RENAME TO away"))
    with pytest.raises(database.DATABASE_ERRORS):
        await ledger.record(parse_batch(payloads([event()]), NOW))
    assert ledger.fault is not None
    assert await rows(ledger, events) == []
    async with ledger._engine.begin() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO rollups"))
    assert (await ledger.record(parse_batch(payloads([event()]), NOW))).counted == 1
    assert ledger.fault is None


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_replicas_count_each_event_once(postgres_url: str, seed: int) -> None:
    """The same sources' events, overlapping and in opposite orders, from four concurrent writers."""
    sent = [event(f"gw-{s}", n, machine=f"m{n % 3}") for s in range(5) for n in range(1, 41)]
    async with ledger_on(postgres_url) as first, ledger_on(postgres_url) as second:
        work = []
        for start in range(0, len(sent), 20):
            part = sent[max(0, start - 10 - seed) : start + 20]
            work += [
                first.record(parse_batch(payloads(part), NOW)),
                second.record(parse_batch(payloads(part[::-1]), NOW)),
            ]
        recorded = await asyncio.gather(*work)
        assert sum(r.counted for r in recorded) == len(sent)
        assert await totals(first) == sums_of(sent)
        assert await second.read_marks(NOW) == {f"gw-{s}": 40 for s in range(5)}
        assert await gaps(first) == []


names = st.text(min_size=1, max_size=450)
numbers = st.one_of(st.integers(0, 50), st.integers())
seconds = st.one_of(st.floats(0, 1e10), st.floats(allow_nan=False, allow_infinity=False))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_any_message_is_counted_or_stored(ledger: SqlLedger, data: st.DataObject) -> None:
    """Both databases accept what the checks let through: no message can block the stream for ever."""
    fields = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(("id", "source", "key_id", "model", "tier", "machine", "wake_id"), names),
                **dict.fromkeys(("source_seq", "generation", "status", "prompt_tokens", "reasoning_tokens"), numbers),
                **dict.fromkeys(("completed_at", "wake_wait", "first_token", "duration", "overhead"), seconds),
            },
        )
    )
    payload = msgspec.json.encode({**msgspec.to_builtins(event()), **fields})
    before = len(await rows(ledger, events)) + len(await rows(ledger, quarantine)) + len(await rows(ledger, conflicts))
    recorded = await ledger.record(parse_batch([payload], NOW))
    after = len(await rows(ledger, events)) + len(await rows(ledger, quarantine)) + len(await rows(ledger, conflicts))
    assert recorded.counted + recorded.conflicts + sum(recorded.quarantined.values()) == after - before


async def test_rollups_are_the_sums_of_the_events(ledger: SqlLedger) -> None:
    sent = [event(source_seq=n, completed_at=MIDNIGHT + n * 7.5, model=f"m{n % 2}") for n in range(1, 101)]
    for start in range(0, 100, 9):
        await ledger.record(parse_batch(payloads(sent[start : start + 9]), NOW))
    async with database.read_transaction(ledger._engine) as connection:
        minutes = (await connection.execute(select(func.count()).select_from(rollups))).scalar_one()
    assert minutes == len({(e.completed_at // 60, e.model) for e in sent})
    assert await totals(ledger) == sums_of(sent)
