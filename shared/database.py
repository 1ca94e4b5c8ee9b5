"""Databases: one engine per process for SQLite or PostgreSQL, exact decimals on both, migrations under a lock."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Dialect, Numeric, Text, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator, TypeEngine

log = structlog.get_logger()

BUSY_SECONDS = 30.0
"""How long a SQLite writer waits for another's transaction."""
MIGRATION_LOCK = 0x5B07
"""PostgreSQL's advisory lock while the schema changes; any number, the same for all."""


class ExactDecimal(TypeDecorator[Decimal]):
    """A Decimal that keeps every digit: NUMERIC on PostgreSQL, TEXT on SQLite (whose REAL would lose some).

    On SQLite do not sum it in SQL.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Numeric(38, 12) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


def create_engine(url: str) -> AsyncEngine:
    """A pooled engine. SQLite: WAL, synchronous FULL, foreign keys on, writers wait for one another."""
    engine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            # A reader that becomes a writer cannot wait; one that says so at once can.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def migrate(engine: AsyncEngine, scripts: Path, *, version_table: str) -> None:
    """Bring the schema to the newest revision of `scripts`; replicas that start together take turns."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(scripts))
    config.attributes["version_table"] = version_table

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    log.info("schema is current", version_table=version_table)
