"""Opens databases: one engine per process for SQLite or PostgreSQL, exact decimals, migrations under a lock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import structlog
from alembic import command, context
from alembic.config import Config as AlembicConfig
from sqlalchemy import Dialect, Numeric, Text, event, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator, TypeEngine

from shared.config.sections import Config
from shared.errors import DatabaseUnavailable, Misconfigured
from shared.messages.codec import Unreadable, decode_text

log = structlog.get_logger()

BUSY_SECONDS = 20.0
"""How long a SQLite writer waits for another's transaction."""
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 30.0
"""For one statement on PostgreSQL: a silent server is noticed, and the transaction is retried."""
START_SECONDS = 30.0
"""For the first connection: on a cluster the database may start at the same time."""
MIGRATION_LOCK = 0x5B07
"""PostgreSQL's advisory lock for schema changes. Any number will do, if all services use the same."""

DATABASE_ERRORS = (SQLAlchemyError, OSError, TimeoutError)
"""What an unavailable, locked or slow database raises. The whole transaction may be retried."""


class ExactDecimal(TypeDecorator[Decimal]):
    """A Decimal that keeps every digit: NUMERIC(38, 12) on PostgreSQL, TEXT on SQLite, whose REAL would lose some.

    Do not sum it in SQL on SQLite.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Numeric(38, 12) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002 - the base's shape
        return None if value is None else Decimal(value)


def create_engine(url: str) -> AsyncEngine:
    """Return a pooled engine. SQLite uses WAL, synchronous FULL and foreign keys; its writers wait for one another."""
    if make_url(url).get_backend_name() != "sqlite":
        timeouts = {"timeout": CONNECT_SECONDS, "command_timeout": COMMAND_SECONDS}
        return create_async_engine(url, pool_pre_ping=True, connect_args=timeouts)
    # isolation_level None: the driver begins no transaction itself, so that `_begin` below decides how.
    engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that becomes a writer cannot wait for another writer; a transaction begun as a writer can.
        reads = connection.get_execution_options().get("reads_only")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


@asynccontextmanager
async def read_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A read-only transaction: it sees a snapshot of the database and blocks no writer."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execution_options(reads_only=True)
        else:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            yield connection


async def migrate(engine: AsyncEngine, scripts: Path, *, version_table: str) -> None:
    """Migrate the schema to the newest revision of `scripts`. Replicas that start together take turns.

    Each service has its own `version_table`, so that several services may share a database.
    """
    config = AlembicConfig()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes.update(connection=connection, version_table=version_table)
        command.upgrade(config, "head")

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    log.info("schema_migrated", version_table=version_table)


def run_migrations() -> None:
    """The body of every `migrations/env.py`. `migrate` begins and ends the transaction."""
    attributes = context.config.attributes
    context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
    context.run_migrations()


@asynccontextmanager
async def migrated_engine(url: str, scripts: Path, *, version_table: str) -> AsyncIterator[AsyncEngine]:
    """An engine with the current schema. Raises `DatabaseUnavailable` after `START_SECONDS` without an answer."""
    engine = create_engine(url)
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    try:
        while True:
            try:
                await migrate(engine, scripts, version_table=version_table)
                break
            except DATABASE_ERRORS as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise DatabaseUnavailable(f"{engine.url.render_as_string()}: {describe(error)}") from error
                log.warning("database_connect_failed", reason=describe(error))
                await asyncio.sleep(1.0)
        yield engine
    finally:
        await engine.dispose()


def describe(error: BaseException) -> str:
    """Return what went wrong, in one line and without the statement's values."""
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {cause}".partition("\n")[0]


def database_url(config: Config, data_dir: Path, file_name: str) -> str:
    """Return SQLAlchemy's asynchronous URL: the configured one, or a SQLite file of this name in the data directory."""
    url = config.database.url
    if config.database.url_file is not None:
        try:
            url = decode_text(config.database.url_file.read_bytes()).strip()
        except (OSError, Unreadable) as error:
            raise Misconfigured(f"database.url_file: {error}") from error
    if url is None:
        return f"sqlite+aiosqlite:///{(data_dir / file_name).resolve()}"
    drivers: dict[str, Callable[[str], str]] = {
        "postgresql": lambda rest: f"postgresql+asyncpg{rest}",
        "postgres": lambda rest: f"postgresql+asyncpg{rest}",
        "sqlite": lambda rest: f"sqlite+aiosqlite{rest}",
    }
    scheme, colon, rest = url.partition(":")
    if scheme in drivers:
        return drivers[scheme](colon + rest)
    if scheme in ("postgresql+asyncpg", "sqlite+aiosqlite"):
        return url
    raise Misconfigured("database.url must begin with sqlite:/// or postgresql://")
