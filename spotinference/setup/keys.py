"""Brings the API keys on the bus back to what the ledger's copy of them says."""

from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from services.meter.adapters.key_store import SqlKeyStore
from services.meter.adapters.schema import LEDGER_FILE
from services.meter.adapters.tables import key_records
from shared import database
from shared.bus.ports import Bus
from shared.config.sections import Config
from shared.key_records import Merged, SavedKey, merge_keys


async def return_keys(bus: Bus, ledger_url: str) -> Merged:
    """Create the keys that the bus lost, and end again what has ended. A ledger without a copy changes nothing.

    Raises one of `DATABASE_ERRORS`, or `BusError`.
    """
    return await merge_keys(bus, await _read_copy(ledger_url))


async def try_return_keys(bus: Bus, config: Config, data_dir: Path) -> str | None:
    """Do the same unless the database is unavailable. Return what to report; None: nothing was missing."""
    url = database.database_url(config, data_dir, LEDGER_FILE)
    try:
        merged = await return_keys(bus, url)
    except database.DATABASE_ERRORS as error:
        reason = f"{database.without_secrets(url)}: {database.describe(error)}"
        return f"the keys could not be compared with the ledger's copy: {reason}: run `spotinference setup` later"
    return describe_merge(merged) if merged.changed else None


def describe_merge(merged: Merged) -> str:
    """Return what happened, in one line. The records are those of secrets, of which a key has one or more."""
    return f"keys on the bus: {merged.returned} came back, {merged.ended} ended again"


async def _read_copy(ledger_url: str) -> list[SavedKey]:
    if not _exists(ledger_url):
        return []
    engine = database.create_engine(ledger_url)
    try:
        async with database.read_transaction(engine) as connection:
            has_copy = await connection.run_sync(lambda c: inspect(c).has_table(key_records.name))
        return await SqlKeyStore(engine).read() if has_copy else []
    finally:
        await engine.dispose()


def _exists(ledger_url: str) -> bool:
    """Return False for an SQLite file that is missing: to open it would create it."""
    url = make_url(ledger_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()
