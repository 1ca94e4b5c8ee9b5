"""Throughput and latency in the ledger: the same in any order and repetition of events."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select

from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.performance import SqlPerformanceReader, figures
from services.meter.adapters.tables import minutes
from services.meter.core.batch import parse_batch
from services.meter.core.performance import build_figures, metrics_of, requested_hours
from services.meter.core.sketch import RELATIVE_ERROR, Sketch
from shared import database
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import ErrorReply
from shared.messages.meter_figures import Figures, FiguresQuery, FiguresRow, Pace
from tests.integration.meter.test_ledger import ledger_on
from tests.integration.meter.test_process import meter_on
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.meter.events import MIDNIGHT, event

DAY = FiguresQuery(start=MIDNIGHT, end=MIDNIGHT + 86400.0)
NOW = MIDNIGHT + 2 * 86400.0


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with ledger_on(ledger_url) as opened:
        yield opened


def traffic(count: int, seed: int = 1) -> list[UsageEvent]:
    dice = Random(seed)
    return [
        event(
            f"gw-{n % 3}",
            1 + n // 3,
            completed_at=MIDNIGHT + dice.uniform(0, 4 * 3600),
            tier=dice.choice(["l4x2", "h100x2"]),
            model=dice.choice(["a", "b"]),
            first_token=dice.lognormvariate(-1, 1),
            duration=100.0,
            wake_wait=dice.choice([0.0, 0.0, dice.uniform(60, 200)]),
            overhead=dice.lognormvariate(-7, 1),
            completion_tokens=dice.randrange(0, 500),
            outcome="failed" if n % 10 == 0 else "completed",
        )
        for n in range(count)
    ]


async def record(ledger: SqlLedger, sent: list[UsageEvent]) -> None:
    await ledger.record(parse_batch([encode(e) for e in sent], NOW))


async def read_figures(ledger: SqlLedger, query: FiguresQuery) -> Figures:
    return build_figures(query, await SqlPerformanceReader(ledger._engine).read(query, requested_hours(query)))


async def content(ledger: SqlLedger) -> list[Any]:
    """Return all stored rows as values."""
    async with database.read_transaction(ledger._engine) as connection:
        kept = [
            (*row[:6], Sketch.unpacked(row.bins).bins)
            for row in await connection.execute(select(figures).order_by(*figures.primary_key.columns))
        ]
        return [kept, list(await connection.execute(select(minutes).order_by(*minutes.primary_key.columns)))]


async def test_figures_match_the_events(ledger: SqlLedger) -> None:
    sent = traffic(600)
    for start in range(0, 600, 70):
        await record(ledger, sent[start : start + 70])
    rows = (await read_figures(ledger, DAY)).rows
    assert [row.dimensions for row in rows] == [{"tier": t, "model": m} for t in ("h100x2", "l4x2") for m in "ab"]
    for row in rows:
        its = [e for e in sent if {"tier": e.tier, "model": e.model} == row.dimensions]
        compare(row, its)
    (whole,) = (await read_figures(ledger, FiguresQuery(start=DAY.start, end=DAY.end, by=()))).rows
    compare(whole, sent)


def at_percent(ordered: Sequence[float], percent: int) -> float:
    """Return the least value that so many per cent do not exceed."""
    return ordered[-(-percent * len(ordered) // 100) - 1]


def compare(row: FiguresRow, its: list[UsageEvent]) -> None:
    assert set(row.measures) == {"ttft", "ttft_warm", "ttft_cold", "tpot", "stream_rate", "wake_wait", "overhead"}
    for metric, spread in row.measures.items():
        values = sorted(value for e in its for name, value in metrics_of(e) if name == metric)
        assert spread.count == len(values)
        assert spread.mean == pytest.approx(sum(values) / len(values), abs=1e-6)
        for percent, value in ((50, spread.p50), (95, spread.p95), (99, spread.p99)):
            assert value == pytest.approx(at_percent(values, percent), rel=RELATIVE_ERROR + 1e-9)
    minutes: dict[int, int] = {}
    for e in (e for e in its if e.outcome != "failed"):
        minutes[int(e.completed_at // 60)] = minutes.get(int(e.completed_at // 60), 0) + e.completion_tokens
    busy = sorted(tokens for tokens in minutes.values() if tokens)
    assert row.output == Pace(
        minutes=len(busy),
        tokens=sum(busy),
        p50=at_percent(busy, 50) / 60,
        p95=at_percent(busy, 95) / 60,
        peak=busy[-1] / 60,
    )


async def test_repeated_events_in_any_order_change_no_figure(ledger: SqlLedger, tmp_path: Path) -> None:
    sent = traffic(200)
    async with ledger_on(f"sqlite+aiosqlite:///{tmp_path / 'once.sqlite'}") as once:
        await record(once, sent)
        expected = await content(once)
    dice = Random(7)
    for start in range(0, 200, 20):
        await record(ledger, dice.sample(sent[: start + 20], start + 20))
    await record(ledger, sent[::-1])
    other = event("gw-0", 1, overhead=9.0, model="a", first_token=9.0)
    await record(ledger, [other])  # a conflict: the first one counts
    assert await content(ledger) == expected


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_replicas_lose_no_value(postgres_url: str, seed: int) -> None:
    sent = traffic(400, seed)
    async with ledger_on(postgres_url) as first, ledger_on(postgres_url) as second:
        work = []
        for start in range(0, 400, 20):
            part = sent[max(0, start - 10 - seed) : start + 20]
            work += [record(first, part), record(second, part[::-1])]
        await asyncio.gather(*work)
        (whole,) = (await read_figures(first, FiguresQuery(start=DAY.start, end=DAY.end, by=()))).rows
    compare(whole, sent)


async def test_hour_and_day_dimensions_respect_their_bounds(ledger: SqlLedger) -> None:
    at = (-0.1, 0.0, 3599.9, 3600.0, 86399.9, 86400.0)
    await record(ledger, [event(source_seq=n, completed_at=MIDNIGHT + a) for n, a in enumerate(at, 1)])
    by_hour = await read_figures(ledger, FiguresQuery(start=DAY.start, end=DAY.end, by=("hour",)))
    counts = [
        (row.dimensions["hour"], row.measures["ttft"].count, row.output and row.output.tokens) for row in by_hour.rows
    ]
    assert counts == [("2026-11-23T00:00:00Z", 2, 14), ("2026-11-23T01:00:00Z", 1, 7), ("2026-11-23T23:00:00Z", 1, 7)]
    days = await read_figures(ledger, FiguresQuery(start=DAY.start - 86400, end=DAY.end + 86400, by=("day",)))
    assert [row.measures["ttft"].count for row in days.rows] == [1, 4, 1]
    assert (await read_figures(ledger, FiguresQuery(start=DAY.start, end=DAY.end, model="other"))).rows == ()


async def test_meter_answers_queries_and_rejects_invalid_ones(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        nothing = decode(await bus.request(subjects.METER_FIGURES, encode(DAY), timeout=PATIENCE_SECONDS), Figures)
        assert (nothing.rows, nothing.relative_error) == ((), RELATIVE_ERROR)
        wrong = encode(FiguresQuery(start=1.0, end=3600.0))
        assert (
            "start"
            in decode(await bus.request(subjects.METER_FIGURES, wrong, timeout=PATIENCE_SECONDS), ErrorReply).reason
        )
