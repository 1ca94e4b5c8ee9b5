"""How long billing takes for one large day: `python -m bench.days [CHARGES] [URL]`.

URL: an empty database, `postgresql+asyncpg://…` or `sqlite+aiosqlite:///…`; a new SQLite file when absent. A third of
the charges are hours of 200 machines, a third tagged disks, a third other resources, no two alike. Each machine changed
its state every hour and was busy 500 times; tokens are of 2,000 keys.
"""

import asyncio
import sys
import tempfile
import time
from decimal import Decimal
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters import tables
from services.billing.adapters.day_store import SqlDayStore
from services.billing.adapters.revision_store import SqlRevisionStore
from services.billing.adapters.schema import MIGRATIONS
from services.billing.app.day_reports import DayReports
from services.billing.app.meter_client import MeterClient
from services.billing.app.report_publisher import published_revision
from services.billing.core.utc_time import day_window
from services.billing.metrics import Metrics
from services.billing.settings import settings
from shared import database
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.config.load import parse
from shared.messages.codec import encode
from shared.messages.meter import Tokens, TokensRow, TokenSums
from shared.units import DAY_MS, HOUR_MS

NAME = "2026-05-03"
START = day_window(NAME).start
MACHINES, KEYS, BUSY, ROWS, TIMES = 200, 2000, 500, 5000, 5
TIERS = "".join(f'[[tier]]\nname = "{name}"\nprovider = "static"\nprice_per_hour = "2.40"\n' for name in "AB")
MACHINE = '[[machine]]\nid = "m{0}"\ntier = "{1}"\ninstance = "i-{0}"\nendpoint = "http://127.0.0.1:1"\n'


def charge(number: int, snapshot: int) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(column.name for column in tables.cost_rows.c if column.name != "id")
    row |= {"snapshot_id": snapshot, "category": "Usage", "currency": "USD", "per_usd": "1", "rows": 1}
    row |= {"charge_start": START, "charge_end": START + DAY_MS, "billed": Decimal(number) / 10**6}
    if number % 3 == 0:
        hour = START + number // 3 % 24 * HOUR_MS
        row |= {"charge_start": hour, "charge_end": hour + HOUR_MS, "resource_id": f"i-{number // 72 % MACHINES}"}
        return row | {"service_category": "Compute", "consumed_quantity": "0.75", "consumed_unit": "Hours"}
    tags = f'{{"tier": "A", "Name": "disk {number}"}}' if number % 3 == 1 else None
    kind = "Storage" if tags else "Networking"
    return row | {"resource_id": f"other-{number}", "service_category": kind, "tags": tags}


async def fill(engine: AsyncEngine, charges: int) -> None:
    period = {"period_start": START - 2 * DAY_MS, "period_end": START + 29 * DAY_MS}
    snapshot = {"source": "cloud", "issuer": "Cloud Inc.", "account": "1", "sha256": "0", "rows": charges, **period}
    snapshot |= {"active": True, "imported_at": 0.0, "currency": "USD", "terms": ""}
    changes = [
        {"machine": f"m{m}", "at": START + h * HOUR_MS, "to_state": state, "tier": "AB"[m % 2], "reason": ""}
        for m in range(MACHINES)
        for h, state in enumerate(["waking", "ready", "asleep"] * 8)
    ]
    async with engine.begin() as connection:
        made = await connection.execute(insert(tables.snapshots).values(snapshot).returning(tables.snapshots.c.id))
        number = made.scalar_one()
        await connection.execute(insert(tables.transitions), changes)
        for first in range(0, charges, ROWS):
            rows = [charge(n, number) for n in range(first, min(charges, first + ROWS))]
            await connection.execute(insert(tables.cost_rows), rows)


def usage() -> Tokens:
    named = (
        {"tier": "AB"[k % 2], "model": f"m{k % 3}", "key": f"key-{k}", "outcome": "completed"} for k in range(KEYS)
    )
    sums = TokenSums(requests=9, prompt_tokens=9000, cached_tokens=3000, completion_tokens=2500)
    rows = tuple(TokensRow(dimensions=names, sums=sums) for names in named)
    busy = tuple((START / 1000 + 160.0 * n, START / 1000 + 160.0 * n + 70) for n in range(BUSY))
    machines = {f"m{m}": busy for m in range(MACHINES)}
    return Tokens(day=NAME, complete=True, totals=sums, served=sums, rows=rows, busy=machines)


async def main(charges: int, url: str) -> None:
    config = parse(TIERS + "".join(MACHINE.format(m, "AB"[m % 2]) for m in range(MACHINES)), "bench")
    bus, reported = MemoryBus(), encode(usage())

    async def answer(_data: bytes) -> bytes:
        return reported  # in one page, made before: that is the meter's work

    await bus.respond("meter", subjects.METER_TOKENS, answer)
    async with database.migrated_engine(url, MIGRATIONS, version_table="books_version") as engine:
        await fill(engine, charges)
        metrics = Metrics(CollectorRegistry())
        now = (START + 30 * DAY_MS) / 1000
        reports = DayReports(
            MeterClient(bus),
            SqlDayStore(engine),
            SqlRevisionStore(engine),
            settings(config),
            metrics,
            published=partial(published_revision, bus),
            now=lambda: now,
        )
        for _ in range(TIMES):
            wall, cpu = time.perf_counter(), time.process_time()
            report = await reports.report(NAME)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(f"{report.charges} charges in {cpu:.2f} s of CPU, {wall:.2f} s in all")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        chosen = [*sys.argv[1:], "100000"][0]
        asyncio.run(main(int(chosen), [*sys.argv[2:], f"sqlite+aiosqlite:///{Path(folder) / 'books.sqlite'}"][0]))
