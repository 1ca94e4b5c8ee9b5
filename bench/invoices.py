"""How long ten million charges take from Parquet into the books, and how much memory: `python -m bench.invoices`.

A month of FOCUS as AWS exports it, hourly: costs as doubles, tags as maps, a fleet of 20 machines beside some 4,000
other resources. It is imported by the service's own parts in a process of its own, once into SQLite and once into
PostgreSQL with fsync on; then a day is read out of the books, and its spend has to be what the files say.
"""

import argparse
import asyncio
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import duckdb

from bench.load import BenchmarkFailed
from bench.meter import postgres
from services.billing.adapters.day_store import SqlDayStore
from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from services.billing.adapters.invoice_store import SqlInvoiceStore
from services.billing.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.billing.core.invoice_files.columns import sql_literal
from services.billing.core.invoice_files.delivery import Delivery
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.utc_time import day_window
from shared import database
from shared.messages.invoices import DeliveredFile
from tests.kit.postgres import asynchronous

MACHINES = 20
HOURS = 31 * 24
FILES = 4
DAY = "2026-05-03"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--import-into", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.import_into:
        print(json.dumps(asyncio.run(import_files(sorted(options.folder.iterdir()), options.import_into))))
        return
    with tempfile.TemporaryDirectory(prefix="spot-bench-") as home, ExitStack() as stack:
        folder = Path(home) / "files"
        folder.mkdir()
        write(options.rows, folder)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{options.rows:,} rows of Parquet, {size:.0f} MB")
        expected = spend(folder)
        server = stack.enter_context(postgres())
        for name, url in (
            ("SQLite", f"sqlite+aiosqlite:///{home}/books.sqlite"),
            ("PostgreSQL", asynchronous(server.url)),
        ):
            child = [sys.executable, "-m", "bench.invoices", "--import-into", url, "--folder", str(folder)]
            reported = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            if Decimal(reported["spend"]) != expected or reported["rows"] != options.rows // FILES * FILES:
                raise BenchmarkFailed(f"{name}: {reported} where the files have {expected}")
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in reported.items()))


def _link_into(file: Path, room: Path) -> Path:
    """The file where the reading may read it."""
    placed = room / file.name
    shutil.copyfile(file, placed)
    return placed


async def import_files(paths: list[Path], url: str) -> dict[str, float | int | str]:
    """Seconds and megabytes of one import, and what a day then says."""
    terms = ImportSettings(source="aws", mine=frozenset(f"i-{number:017}" for number in range(MACHINES)))
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        with tempfile.TemporaryDirectory(prefix="spot-bench-") as room:
            began = time.perf_counter()
            files = [
                (
                    DeliveredFile(name=p.name, sha256=hashlib.sha256(p.name.encode()).hexdigest()),
                    _link_into(p, Path(room)),
                )
                for p in paths
            ]
            reading = DuckdbInvoiceReader(Path(room), terms)
            await asyncio.to_thread(reading.read, files)
            if reading.refusals:
                raise BenchmarkFailed(str(reading.refusals[0]))
            read = time.perf_counter()
            delivery = Delivery(
                source="aws", snapshots=reading.snapshots, rows=reading.rows, terms=terms.digest, appends=False
            )
            summaries = await SqlInvoiceStore(engine).deliver(delivery, time.time())
            written, used = time.perf_counter(), time.process_time()
            reading.close()
        day = await SqlDayStore(engine).read(day_window(DAY))
        return {
            "seconds": round(written - began, 1),
            "of it reading": round(read - began, 1),
            "CPU seconds": round(used, 1),
            "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "rows": sum(summary.rows for summary in summaries),
            "a day's charges": len(day.rows),
            "seconds to read them": round(time.perf_counter() - written, 2),
            "spend": str(sum(row.billed for row in day.rows)),
        }


def spend(folder: Path) -> Decimal:
    """The day's, straight from the files."""
    cost = 'CAST(CAST("BilledCost" AS VARCHAR) AS DECIMAL(38, 12))'
    on_it = 'CAST("ChargePeriodStart" AS DATE) = CAST($1 AS DATE)'
    results = duckdb.execute(f"SELECT sum({cost}) FROM read_parquet('{folder}/*') WHERE {on_it}", [DAY]).fetchone()
    assert results is not None
    return Decimal(results[0])


def write(rows: int, into: Path) -> list[Path]:
    """The month's files."""
    paths = [into / f"focus-{number:05}.snappy.parquet" for number in range(FILES)]
    per_hour = rows // HOURS
    with duckdb.connect(config={"memory_limit": "2GB"}) as db:
        db.execute("SELECT setseed(0.5)")
        for number, path in enumerate(paths):
            db.execute(_generate(per_hour, number, rows // FILES, path))
    return paths


def _generate(per_hour: int, number: int, rows: int, path: Path) -> str:
    return f"""
COPY (
    SELECT
        CASE WHEN id % 997 = 0 THEN -1 ELSE 1 END * (0.0000017 + (id % 1013) * 0.0137) AS "BilledCost",
        0.0000017 + (id % 1013) * 0.0137 AS "EffectiveCost", 0.02 + (id % 1013) * 0.02 AS "ListCost",
        '123456789012' AS "BillingAccountId", 'USD' AS "BillingCurrency",
        TIMESTAMP_MS '2026-05-01' AS "BillingPeriodStart", TIMESTAMP_MS '2026-06-01' AS "BillingPeriodEnd",
        (TIMESTAMP '2026-05-01' + INTERVAL (id // {per_hour}) HOUR)::TIMESTAMP_MS AS "ChargePeriodStart",
        (TIMESTAMP '2026-05-01' + INTERVAL (id // {per_hour} + 1) HOUR)::TIMESTAMP_MS AS "ChargePeriodEnd",
        'Usage' AS "ChargeCategory", NULL::VARCHAR AS "ChargeClass", 'line ' || id AS "ChargeDescription",
        (id % 7) * 0.25 AS "ConsumedQuantity", CASE WHEN line < 60 THEN 'Hrs' ELSE 'GB' END AS "ConsumedUnit",
        CASE WHEN id % 3 > 0 THEN 'E20260501' || id % 2 END AS "InvoiceId", 'AWS Inc.' AS "InvoiceIssuerName",
        CASE WHEN line < 60 THEN 'i-' || printf('%017d', line % {MACHINES})
            ELSE 'arn:aws:ec2:us-east-1:123456789012:volume/vol-' || printf('%017d', line % 4001) END AS "ResourceId",
        CASE WHEN line % 4 > 0 THEN 'Compute' ELSE 'Networking' END AS "ServiceCategory",
        'Amazon Elastic Compute Cloud' AS "ServiceName",
        MAP {{'team': 'team-' || line % 12, 'stage': 'production', 'aws:createdBy': 'Role:' || line % 50}} AS "Tags"
    FROM (SELECT id, id % {per_hour} AS line FROM range({number * rows}, {(number + 1) * rows}) AS made (id))
) TO {sql_literal(str(path))} (FORMAT parquet, COMPRESSION snappy)"""


if __name__ == "__main__":
    main()
