"""Opens databases: one engine per process for SQLite or PostgreSQL, exact decimals, the current schema."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Dialect, Numeric, Table, Text, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator, TypeEngine

from shared import schema
from shared.config.sections import Config
from shared.errors import Misconfigured, SchemaMismatch
from shared.messages.codec import Unreadable, decode_text

log = structlog.get_logger()

BUSY_SECONDS = 20.0
"""How long a SQLite writer waits for another's transaction."""
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 30.0
"""For one statement on PostgreSQL: a silent server is noticed, and the transaction is retried."""
CONNECT_RETRY_SECONDS = 1.0
"""Between two attempts to reach the database at the start."""

DATABASE_ERRORS = (SQLAlchemyError, OSError, TimeoutError, SchemaMismatch)
"""What an unavailable, locked or slow database raises, or one whose schema has changed. The whole transaction may be
retried."""


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


def create_engine(url: str, *, is_bounded: bool = True) -> AsyncEngine:
    """Return a pooled engine. SQLite uses WAL, synchronous FULL and foreign keys; its writers wait for one another.

    `is_bounded`: whether a statement on PostgreSQL may take `COMMAND_SECONDS` only.
    """
    if not url.startswith("sqlite"):
        from shared.postgresql import create_postgresql_engine  # its driver is loaded only if it is used

        command_seconds = COMMAND_SECONDS if is_bounded else None
        return create_postgresql_engine(url, connect_seconds=CONNECT_SECONDS, command_seconds=command_seconds)
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
        reads = connection.get_execution_options().get(schema.READS_ONLY)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def dialect_insert(engine: AsyncEngine) -> Callable[[Table], Any]:
    """Return the database's own `insert`, with `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if engine.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:  # a tenth of a service's start, so it is loaded only if it is used
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]  # they do the same
    return insert


@asynccontextmanager
async def read_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A read-only transaction: it sees a snapshot of the database and blocks no writer."""
    async with engine.connect() as connection:
        await connection.execution_options(**{schema.READS_ONLY: True})
        if engine.dialect.name == "postgresql":
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            yield connection


@asynccontextmanager
async def migrated_engine(
    url: str, scripts: Path, *, version_table: str, on_fault: Callable[[str | None], None] = lambda _fault: None
) -> AsyncIterator[AsyncEngine]:
    """An engine with the current schema, each of whose transactions checks that the schema is still this code's.

    It waits for the database for ever, and calls `on_fault` with the reason while it does.

    Raises:
        SchemaMismatch: the schema is that of a newer version.
    """
    revisions = await _migrate_when_available(url, scripts, version_table, on_fault)
    engine = create_engine(url)
    schema.guard(engine, revisions, version_table=version_table)
    try:
        yield engine
    finally:
        await engine.dispose()


async def migrate(url: str, scripts: Path, *, version_table: str) -> schema.Revisions:
    """Migrate the schema once. Raises one of `DATABASE_ERRORS`; `SchemaMismatch` names the database too."""
    engine = create_engine(url, is_bounded=False)
    try:
        return await schema.migrate(engine, scripts, version_table=version_table)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{without_secrets(url)}: {error}") from error
    finally:
        await engine.dispose()


async def _migrate_when_available(
    url: str, scripts: Path, version_table: str, on_fault: Callable[[str | None], None]
) -> schema.Revisions:
    where = f"the database {without_secrets(url)}"
    on_fault(f"waiting for {where}")
    while True:
        try:
            revisions = await migrate(url, scripts, version_table=version_table)
        except SchemaMismatch:
            raise
        except DATABASE_ERRORS as error:
            reason = describe(error)
            on_fault(f"{where} cannot be used yet: {reason}")
            log.warning("database_connect_failed", database=without_secrets(url), reason=reason)
            await asyncio.sleep(CONNECT_RETRY_SECONDS)
        else:
            on_fault(None)
            return revisions


def without_secrets(url: str) -> str:
    """Return the URL as it may be logged: without its password and its parameters."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{hosts}{parts.path}"


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
