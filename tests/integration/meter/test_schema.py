"""Code and schema of different versions: neither writes what the other would misread."""

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters import tables
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.core.batch import parse_batch
from shared import database
from shared.bus import topology
from shared.bus.jetstream import JetStreamBus
from shared.errors import SchemaMismatch
from shared.messages.codec import encode
from tests.integration.meter.test_process import DAY, MarkWatcher, Meter, meter_on, quick, read_text
from tests.kit.usage import send
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.meter.events import event

NOW = 1_800_000_000.0
HEAD = max(script.stem[:4] for script in (MIGRATIONS / "versions").glob("0*.py"))
NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9001"
down_revision = "{head}"
additive = {additive}


def upgrade() -> None:
    op.create_table("later", sa.Column("before", sa.Double))
    op.execute("INSERT INTO later SELECT before FROM horizon")
"""


@pytest.fixture
def newer_scripts(tmp_path: Path) -> Callable[[bool], Path]:
    """The scripts of a version with one more revision, which is additive or not."""

    def make(additive: bool) -> Path:
        scripts = tmp_path / f"additive-{additive}"
        shutil.copytree(MIGRATIONS, scripts)
        (scripts / "versions" / "9001_later.py").write_text(NEXT.format(head=HEAD, additive=additive))
        return scripts

    return make


@asynccontextmanager
async def ledger_engine(url: str, scripts: Path = MIGRATIONS) -> AsyncIterator[AsyncEngine]:
    async with database.migrated_engine(url, scripts, version_table=VERSION_TABLE) as engine:
        yield engine


@asynccontextmanager
async def any_engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine that checks no schema."""
    engine = database.create_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


async def count(engine: AsyncEngine) -> int:
    async with database.read_transaction(engine) as connection:
        return int((await connection.execute(select(func.count()).select_from(tables.events))).scalar_one())


async def record(ledger: SqlLedger, number: int) -> int:
    return (await ledger.record(parse_batch([encode(event("gw", number, completed_at=NOW))], NOW))).counted


async def test_meter_stops_writing_when_a_newer_version_migrates(
    database_url: str, newer_scripts: Callable[[bool], Path]
) -> None:
    async with ledger_engine(database_url) as engine:
        ledger = SqlLedger(engine)
        assert await record(ledger, 1) == 1
        async with ledger_engine(database_url, newer_scripts(False)) as newer:
            with pytest.raises(SchemaMismatch, match=f"revision 9001.*{HEAD}.*newer version"):
                await record(ledger, 2)
            assert ledger.fault is not None
            assert "9001" in ledger.fault
            assert ledger.is_outdated, "this replica gives its lease up"
            with pytest.raises(SchemaMismatch):
                await ledger.read_marks(0.0)
            assert await count(newer) == 1
            assert await record(SqlLedger(newer), 2) == 1


async def test_meter_continues_when_a_newer_version_only_adds(
    database_url: str, newer_scripts: Callable[[bool], Path]
) -> None:
    async with ledger_engine(database_url) as older, ledger_engine(database_url, newer_scripts(True)) as newer:
        assert await record(SqlLedger(older), 1) == 1
        assert await record(SqlLedger(newer), 2) == 1
        assert (await SqlLedger(older).read_marks(0.0)) == {"gw": 2}
        async with ledger_engine(database_url) as restarted:  # the older image once more
            assert await record(SqlLedger(restarted), 3) == 1
        assert await count(newer) == 3


async def test_older_version_names_both_revisions_when_the_schema_is_newer(
    database_url: str, newer_scripts: Callable[[bool], Path]
) -> None:
    async with ledger_engine(database_url, newer_scripts(False)):
        pass
    with pytest.raises(SchemaMismatch, match=f"revision 9001.*{HEAD}.*newer version"):
        async with ledger_engine(database_url):
            pass


async def test_schema_that_went_back_is_reported(database_url: str) -> None:
    async with ledger_engine(database_url) as engine:
        async with engine.begin() as connection:
            await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0009'"))
        with pytest.raises(SchemaMismatch, match=r"revision 0009.*restart"):
            await record(SqlLedger(engine), 1)


async def test_migration_waits_for_the_batch_that_is_being_written(
    postgres_url: str, newer_scripts: Callable[[bool], Path]
) -> None:
    """Otherwise what a migration derives from the ledger would lack that batch."""
    async with ledger_engine(postgres_url) as engine, any_engine(postgres_url) as watcher:
        async with engine.begin() as connection:  # a batch: its transaction has begun, and not written yet
            scripts = newer_scripts(False)
            newer = asyncio.create_task(_migrate(postgres_url, scripts))
            await _lock_awaited(watcher)
            await connection.execute(tables.horizon.update().values(before=1.0))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await newer
        async with watcher.connect() as connection:
            assert (await connection.execute(text("SELECT before FROM later"))).scalar_one() == 1.0


async def test_migration_has_no_statement_timeout(
    postgres_url: str, newer_scripts: Callable[[bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ours nor the server's, even while it waits for its lock."""
    name = postgres_url.rpartition("/")[2]
    async with ledger_engine(postgres_url) as engine, any_engine(postgres_url) as watcher:
        async with engine.begin() as connection:
            await connection.execute(text(f"ALTER DATABASE {name} SET statement_timeout = '200ms'"))
        async with engine.begin():
            monkeypatch.setattr(database, "COMMAND_SECONDS", 0.2)
            newer = asyncio.create_task(_migrate(postgres_url, newer_scripts(False)))
            waited = "clock_timestamp() - query_start > interval '600ms'"
            await _lock_awaited(watcher, waited)
            assert not newer.done()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await newer


async def _migrate(url: str, scripts: Path) -> None:
    async with ledger_engine(url, scripts):
        pass


async def _lock_awaited(watcher: AsyncEngine, condition: str = "true") -> None:
    waiting = text(f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {condition}")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with watcher.connect() as connection:
                if (await connection.execute(waiting)).scalar_one():
                    return
            await asyncio.sleep(0.01)


async def test_older_meter_beside_a_newer_schema(
    bus: JetStreamBus, nats_url: str, database_url: str, newer_scripts: Callable[[bool], Path], tmp_path: Path
) -> None:
    """N-1 beside N: it counts on while the schema only grew, and stops without a loss when it changed."""
    await quick(bus)
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    async with meter_on(tmp_path / "meter", nats_url, database_url) as meter:
        await _migrate(database_url, newer_scripts(True))
        await send(bus, event("gw", 1, completed_at=DAY.start))
        await watcher.reach("gw", 1)
        async with any_engine(database_url) as newer:
            await _require(newer, "9002")
            await send(bus, event("gw", 2, completed_at=DAY.start))
            # Others of its checks may say so first.
            fault = await until(lambda: _fault(meter, "database"), lambda seen: "9002" in seen)
            assert "run the newer version" in fault
            assert await count(newer) == 1
        assert await meter.end(signal.SIGTERM) == 0
        await meter.spawn()
        assert await meter.end_by_itself() == 1
        assert "9002" in meter.log.read_text().splitlines()[-1], "the last words are a sentence for people"
        async with any_engine(database_url) as newer:  # the newer version would have been started instead
            await _require(newer, HEAD, version=HEAD)
        await meter.start()
        await watcher.reach("gw", 2)
    await watch.stop()


async def _fault(meter: Meter, check: str) -> str:
    """Why this check of the meter's fails; nothing if it does not."""
    page = json.loads(await read_text(f"{meter.metrics_url}/readyz"))
    return str(page.get("faults", {}).get(check, ""))


async def _require(engine: AsyncEngine, revision: str, *, version: str = "9002") -> None:
    async with engine.begin() as connection:
        values = {"required": revision, "version": version}
        await connection.execute(
            text(f"UPDATE {VERSION_TABLE} SET required = :required, version_num = :version"), values
        )
