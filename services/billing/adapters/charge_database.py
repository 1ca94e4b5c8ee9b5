"""The DuckDB database for reading one delivery: bounded, and confined to a directory of its own."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import duckdb

from services.billing.core.invoice_files.columns import sql_literal
from services.billing.core.invoice_files.sql_macros import CREATE_MACROS_SQL

MEMORY = "1GB"
FREE_PARTS = 4
"""One part of the free disk is for the files unpacked, one for what does not fit in memory; the charges need no more
than the files do, and the rest stays free for the books and the bus beside them."""


def disk_part(directory: Path) -> int:
    """Return how many bytes one use of the disk may take."""
    return shutil.disk_usage(directory).free // FREE_PARTS


def connect(directory: Path, mine: Iterable[str]) -> duckdb.DuckDBPyConnection:
    """Open a database that can only read and write files in `directory`, whatever SQL it runs.

    `mine` are the resources of our machines; they become a table.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "temp_directory": str(directory / "spill"),
        "max_temp_directory_size": f"{disk_part(directory)}B",
        "threads": max(2, min(8, os.cpu_count() or 1)),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    database = duckdb.connect(str(directory / "charges.duckdb"), config=settings)
    database.execute("SET TimeZone = 'UTC'")
    database.execute(f"SET allowed_directories = [{sql_literal(str(directory))}]")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    database.begin()  # one commit for all: each of its own waits for the disk
    database.execute(CREATE_MACROS_SQL)
    database.execute("CREATE TABLE mine (resource VARCHAR)")
    if rows := [[resource] for resource in sorted(mine)]:
        database.executemany("INSERT INTO mine VALUES (?)", rows)
    database.commit()
    return database


def is_too_large(error: BaseException) -> bool:
    """Return whether the delivery needs more memory or disk than it may use."""
    return isinstance(error, duckdb.OutOfMemoryException) or "No space left on device" in str(error)
