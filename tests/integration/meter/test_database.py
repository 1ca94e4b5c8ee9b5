"""The database layer on real SQLite and PostgreSQL."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, Table, Text, func, inspect, select, text

import services.meter
from shared import database
from shared.database import ExactDecimal, create_engine, read_transaction
from shared.schema import migrate
from shared.tasks import cancel_and_wait
from tests.kit.waiting import PATIENCE_SECONDS

MIGRATIONS = Path(services.meter.__file__).parent / "adapters" / "migrations"


async def test_concurrent_starts_migrate_once(database_url: str) -> None:
    newest = max(script.stem[:4] for script in (MIGRATIONS / "versions").glob("0*.py"))
    engines = [create_engine(database_url) for _ in range(4)]
    try:
        await asyncio.gather(*(migrate(e, MIGRATIONS, version_table="ledger_version") for e in engines))
        async with read_transaction(engines[0]) as connection:
            assert (await connection.execute(text("SELECT version_num FROM ledger_version"))).all() == [(newest,)]
            tables = await connection.run_sync(lambda c: inspect(c).get_table_names())
            assert {"events", "rollups", "sources", "runs", "conflicts", "quarantine", "key_months", "hours"} <= set(
                tables
            )
    finally:
        for engine in engines:
            await engine.dispose()


async def test_decimals_keep_every_digit(database_url: str) -> None:
    amounts = [Decimal("99999999999999999999999999.123456789012"), Decimal("-0.000000000001"), Decimal(0)]
    metadata = MetaData()
    table = Table("amounts", metadata, Column("name", Text, primary_key=True), Column("amount", ExactDecimal))
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(table.insert(), [{"name": str(i), "amount": a} for i, a in enumerate(amounts)])
        await connection.execute(table.insert(), {"name": "null", "amount": None})
    async with read_transaction(engine) as connection:
        rows = (await connection.execute(select(table.c.amount).order_by(table.c.name))).scalars().all()
    await engine.dispose()
    assert rows == [*amounts, None]


async def test_concurrent_writers_lose_no_increment(database_url: str) -> None:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counter (n BIGINT)"))
        await connection.execute(text("INSERT INTO counter VALUES (0)"))

    async def increment() -> None:
        for _ in range(20):
            async with engine.begin() as connection:
                locked = "" if engine.dialect.name == "sqlite" else " FOR UPDATE"
                n = (await connection.execute(text(f"SELECT n FROM counter{locked}"))).scalar_one()
                await connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    await asyncio.gather(*(increment() for _ in range(4)))
    async with read_transaction(engine) as connection:
        assert (await connection.execute(text("SELECT n FROM counter"))).scalar_one() == 80
    await engine.dispose()


async def test_reader_sees_one_moment_and_blocks_no_writer(database_url: str) -> None:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (n BIGINT)"))
    count = select(func.count()).select_from(text("t"))
    async with read_transaction(engine) as reader:
        before = (await reader.execute(count)).scalar_one()
        async with asyncio.timeout(PATIENCE_SECONDS), engine.begin() as writer:
            await writer.execute(text("INSERT INTO t VALUES (1)"))
        assert (await reader.execute(count)).scalar_one() == before == 0
    async with read_transaction(engine) as reader:
        assert (await reader.execute(count)).scalar_one() == 1
    await engine.dispose()


async def test_sqlite_is_durable_and_rolls_back_whole_transactions(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.sqlite'}")
    async with engine.begin() as connection:
        pragmas = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
        assert pragmas == ["wal", 2, 1]
    async with engine.connect() as connection, connection.begin() as transaction:
        await connection.execute(text("CREATE TABLE t (n BIGINT)"))
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        await transaction.rollback()
    async with read_transaction(engine) as connection:
        assert await connection.run_sync(lambda c: inspect(c).get_table_names()) == []
    await engine.dispose()


async def test_unavailable_database_is_awaited_and_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database, "CONNECT_RETRY_SECONDS", 0.0)
    url = "postgresql+asyncpg://meter:hunter2@127.0.0.1:1/ledger"
    faults: list[str | None] = []
    tried = asyncio.Event()

    def on_fault(fault: str | None) -> None:
        faults.append(fault)
        if len(faults) == 3:
            tried.set()

    async def start() -> None:
        async with database.migrated_engine(url, MIGRATIONS, version_table="ledger_version", on_fault=on_fault):
            pass

    starting = asyncio.create_task(start())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await tried.wait()
    await cancel_and_wait([starting])
    output = "".join(capfd.readouterr())
    assert "127.0.0.1:1/ledger" in output
    assert [fault is not None and "ConnectionRefusedError" in fault for fault in faults[1:]] == [True, True]
    assert "hunter2" not in output + str(faults)
