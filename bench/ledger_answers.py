"""How fast the meter answers over a month of a million requests a day: `python -m bench.ledger_answers [URL] [DAYS]`.

URL: an empty database, `postgresql+asyncpg://…` or `sqlite+aiosqlite:///…`; a new SQLite file when absent. The sums are
those of as many requests; of the events themselves only a day's are there, for the questions and steps that need them.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters import tables
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.sealing import Sealer
from services.meter.core.day import Day
from shared import database
from shared.units import DAY_S

MIGRATIONS = Path(__file__).parents[1] / "services" / "meter" / "adapters" / "migrations"
START = 1_795_392_000.0
"""2026-11-23T00:00:00Z."""
REQUESTS = 1_000_000
"""A day."""
KEYS, MODELS, MACHINES = 50, 3, 4
MINUTES = 1440
ROWS = 5000
"""Written at once."""
TIMES = 20
"""Each question is asked so often."""
QUESTIONS = (
    (),
    ("model",),
    ("model", "tier"),
    ("key",),
    ("model", "tier", "machine", "key", "outcome"),
    ("hour",),
    ("minute",),
    ("minute", "model", "tier"),
)
EVENTS = 100_000


def combinations() -> list[tuple[str, ...]]:
    """Model, tier, machine, key and outcome."""
    return [
        (f"m{model}", f"tier{machine % 2}", f"machine-{machine}", f"key-{key:03}", "completed")
        for model in range(MODELS)
        for machine in range(MACHINES)
        for key in range(KEYS)
    ]


def counts(requests: int) -> tuple[int, ...]:
    return requests, 900 * requests, 300 * requests, 250 * requests, 0


def a_day(chance: random.Random) -> list[tuple[Any, ...]]:
    """Rows of `rollups`: each request at a random minute under a random combination."""
    named = combinations()
    results = Counter((chance.randrange(MINUTES), chance.randrange(len(named))) for _ in range(REQUESTS))
    first = int(START / 60)
    return [(first + minute, *named[which], *counts(n)) for (minute, which), n in sorted(results.items())]


def some_events(chance: random.Random) -> Iterator[tuple[Any, ...]]:
    """Rows of `events` of one day."""
    named = combinations()
    for n in range(EVENTS):
        model, tier, machine, key, outcome = named[chance.randrange(len(named))]
        names = (f"{n:08}-0000-7000-8000-000000000000", "gw-1", n + 1, START + n / EVENTS * DAY_S)
        numbers = (key, model, tier, machine, 1, 900, 300, 250, 0, "engine", outcome, 200, True)
        yield (*names, *numbers, 0.0, None, 0.2, 5.0, 0.001, None, 1)


async def fill(engine: AsyncEngine, days: int) -> None:
    """One day's pattern for all: it is what the databases hold that counts, not what the dice say."""
    chance = random.Random(7)
    first = a_day(chance)
    await write(engine, tables.rollups, first)
    await write(engine, tables.hours, hours_of(first))
    await write(engine, tables.minutes, minutes_of(first))
    for number in range(1, days):
        async with engine.begin() as connection:
            for table, at, width in (
                (tables.rollups, "minute", MINUTES),
                (tables.hours, "hour", 24),
                (tables.minutes, "minute", MINUTES),
            ):
                day = table.c[at] < int(START / DAY_S + 1) * width
                rest = [column for column in table.c if column.name != at]
                shifted = select(table.c[at] + number * width, *rest).where(day)
                await connection.execute(insert(table).from_select([at, *(c.name for c in rest)], shifted))
    await write(engine, tables.events, list(some_events(chance)))
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE"))


def hours_of(rollups: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return merge(((minute // 60, *rest[:5]), rest[5:]) for minute, *rest in rollups)


def minutes_of(rollups: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return merge(
        ((minute, model, tier, outcome), sums) for minute, model, tier, _machine, _key, outcome, *sums in rollups
    )


def merge(rows: Iterable[tuple[tuple[Any, ...], list[int]]]) -> list[tuple[Any, ...]]:
    results: dict[tuple[Any, ...], list[int]] = {}
    for key, more in rows:
        results[key] = [a + b for a, b in zip(results.get(key, [0] * 5), more, strict=True)]
    return [(*key, *sums) for key, sums in sorted(results.items())]


async def write(engine: AsyncEngine, table: Any, rows: list[tuple[Any, ...]]) -> None:
    names = list(table.columns.keys())
    for start in range(0, len(rows), ROWS):
        async with engine.begin() as connection:
            part = [dict(zip(names, row, strict=True)) for row in rows[start : start + ROWS]]
            await connection.execute(insert(table), part)


async def ask(engine: AsyncEngine, days: int) -> AsyncIterator[tuple[str, float, float]]:
    """What was asked, the median and the slowest answer in milliseconds."""
    ledger = SqlLedger(engine)
    for by in QUESTIONS:
        yield f"a day by {', '.join(by) or 'nothing'}", *await time_query(ledger, by, days, 1)
    yield f"{days} days by day and model", *await time_query(ledger, ("day", "model"), 0, days)


async def time_query(ledger: SqlLedger, by: tuple[str, ...], days: int, length: int) -> tuple[float, float]:
    seconds = []
    for number in range(TIMES):
        start = START + (number * 7 % days if days else 0) * DAY_S
        day = Day(name="", start=start, end=start + length * DAY_S)
        began = time.perf_counter()
        await ledger.read_day(day, by, busy=False)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds), 1000 * max(seconds)


async def seal(engine: AsyncEngine) -> list[float]:
    """Milliseconds of each step over a day's events."""
    sealer, now, results = Sealer(engine, 0.0), START + DAY_S, list[float]()
    while True:
        began = time.perf_counter()
        if await sealer.step(now) is None:
            return results
        results.append(1000 * (time.perf_counter() - began))


async def main() -> None:
    days = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite+aiosqlite:///{folder}/ledger.sqlite"
        async with database.migrated_engine(url, MIGRATIONS, version_table="ledger_version") as engine:
            began = time.perf_counter()
            await fill(engine, days)
            print(f"{engine.dialect.name}: {days} days, filled in {time.perf_counter() - began:.0f} s")
            async for question, median, slowest in ask(engine, days):
                print(f"  {question}: {median:.1f} ms, at most {slowest:.1f} ms")
            steps = await seal(engine)
            print(f"  sealing {EVENTS:,} events: {len(steps)} steps, {statistics.median(steps):.0f} ms each")


if __name__ == "__main__":
    asyncio.run(main())
