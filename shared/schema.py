"""Migrates a service's schema under a lock, and keeps code off a schema that another version has changed.

Alembic's version table has one column more, `required`: the newest revision that is not additive. Code that knows that
revision may use the schema, even if a newer version added to it since.

Alembic is loaded only to migrate: it would be a fifth of a service's start, and a schema is migrated once per version.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Column, MetaData, String, Table, event, inspect, select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.errors import SchemaMismatch
from shared.messages.codec import decode_text

log = structlog.get_logger()

MIGRATION_LOCK = 0x5B07
"""PostgreSQL's advisory lock for schema changes. Any number will do, if all services use the same."""
NO_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
"""PostgreSQL's own, which a role or a database may have. A migration takes as long as its data needs."""
CONSTANT = re.compile(r"""^(revision|down_revision|additive) = ["']?(\w+)["']?$""", re.MULTILINE)
"""In a migration script. To parse the scripts whole would take 10 ms of each start."""
READS_ONLY = "reads_only"
"""Execution option of a transaction that writes nothing."""


@dataclass(frozen=True)
class Revisions:
    """The revisions that this code knows. `required` is the newest that is not additive."""

    head: str
    required: str
    known: frozenset[str]

    def fault(self, version: str | None, required: str | None) -> str | None:
        """Return why this code may not use a schema of that version; None: it may."""
        if version == self.head or (version not in self.known and required in self.known):
            return None
        if version is None or version in self.known:
            return (
                f"its schema went back to revision {version}, and this version needs {self.head}: was the database "
                "restored from an older copy? restart this service to migrate it"
            )
        return (
            f"a newer version migrated its schema to revision {version}, and this version knows only {self.head}: "
            "nothing is written; run the newer version"
        )


def revisions_of(scripts: Path) -> Revisions:
    """Read the migration scripts without running them. One that only adds says so by `additive = True`."""
    after = {script["down_revision"]: script for script in map(_constants, scripts.glob("versions/*.py"))}
    ordered = [after.pop("None")]
    while ordered[-1]["revision"] in after:  # ends even if a copied script still has its original's revision
        ordered.append(after.pop(ordered[-1]["revision"]))
    names = [script["revision"] for script in ordered]
    required = max(place for place, script in enumerate(ordered) if script.get("additive") != "True")
    return Revisions(names[-1], names[required], frozenset(names))


def _constants(script: Path) -> dict[str, str]:
    """Return what a module says of its revision, without the quotes."""
    return dict(CONSTANT.findall(decode_text(script.read_bytes())))


async def migrate(engine: AsyncEngine, scripts: Path, *, version_table: str) -> Revisions:
    """Migrate the schema to the newest revision of `scripts`. Replicas that start together take turns.

    Each service has its own `version_table`, so that several services may share a database. A migration waits for the
    transactions that write under the earlier schema, and they wait for it.

    Raises:
        SchemaMismatch: a newer version has changed the schema in a way that this code does not know.
    """
    revisions = revisions_of(scripts)
    async with engine.begin() as connection:
        migrated = await connection.run_sync(_upgrade, scripts, version_table, revisions)
    event_name = "schema_migrated" if migrated else "schema_current"
    log.info(event_name, version_table=version_table, revision=revisions.head)
    return revisions


def run_migrations() -> None:
    """The body of every `migrations/env.py`. `migrate` begins and ends the transaction."""
    from alembic import context

    attributes = context.config.attributes
    context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
    context.run_migrations()


def guard(engine: AsyncEngine, revisions: Revisions, *, version_table: str) -> None:
    """Make each transaction of the engine check the schema first. One that writes keeps migrations waiting.

    A transaction then raises `SchemaMismatch` if a newer version has migrated the schema meanwhile.
    """
    table = _version_table(version_table)
    query = select(table.c.version_num, table.c.required)
    locking = query.with_for_update(read=True)

    @event.listens_for(engine.sync_engine, "begin")
    def _check(connection: Connection) -> None:
        reads = connection.get_execution_options().get(READS_ONLY)
        row = connection.execute(query if reads else locking).one_or_none()
        fault = revisions.fault(*(row or (None, None)))
        if fault is not None:
            raise SchemaMismatch(fault)


def _upgrade(connection: Connection, scripts: Path, version_table: str, revisions: Revisions) -> bool:
    """Migrate if the schema is older than this code. Returns whether it was."""
    if connection.dialect.name == "postgresql":
        for name in NO_TIMEOUTS:  # waiting for the lock counts as well
            connection.execute(text(f"SET LOCAL {name} = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
    table = _version_table(version_table)
    version, required = _read_version(connection, table)
    if version is not None and version not in revisions.known:
        fault = revisions.fault(version, required)
        if fault is not None:
            raise SchemaMismatch(fault)
        log.warning("schema_newer", version_table=version_table, revision=version, known=revisions.head)
        return False
    if (version, required) == (revisions.head, revisions.required):
        return False
    if version is not None:  # wait for the transactions that write under it
        connection.execute(select(table.c.version_num).with_for_update())
    _run_scripts(connection, scripts, version_table)
    if required is None:
        _add_required(connection, table)
    connection.execute(update(table).values(required=revisions.required))
    return True


def _run_scripts(connection: Connection, scripts: Path, version_table: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=version_table)
    command.upgrade(config, "head")


def _read_version(connection: Connection, table: Table) -> tuple[str | None, str | None]:
    """Return the schema's revision and the one that it requires; None for what it does not have yet."""
    columns = _columns(connection, table)
    if "version_num" not in columns:
        return None, None
    # By name: PostgreSQL refuses a prepared `SELECT *` once the table has changed.
    known = [table.c.version_num, *([table.c.required] if "required" in columns else [])]
    row = connection.execute(select(*known)).one_or_none()
    version, required = (*(row or ()), None, None)[:2]
    return version, required


def _add_required(connection: Connection, table: Table) -> None:
    if "required" not in _columns(connection, table):
        connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN required VARCHAR(32)"))


def _columns(connection: Connection, table: Table) -> set[str]:
    inspector = inspect(connection)
    return (
        {column["name"] for column in inspector.get_columns(table.name)} if inspector.has_table(table.name) else set()
    )


def _version_table(name: str) -> Table:
    return Table(name, MetaData(), Column("version_num", String(32)), Column("required", String(32)))
