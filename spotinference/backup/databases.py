"""Databases in a backup: SQLite files by SQLite's own copy, which is consistent while they are in use."""

import filecmp
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from services.billing.adapters.schema import BOOKS_FILE
from services.meter.adapters.schema import LEDGER_FILE
from services.site.adapters.schema import SITE_FILE
from shared.config.sections import Config
from shared.database import database_url
from shared.errors import Rejected


def sqlite_files(config: Config, data_dir: Path) -> list[Path]:
    """The SQLite databases of this host, ledger first; none if they are on a server."""
    files = [sqlite_file(config, data_dir, name) for name in (LEDGER_FILE, BOOKS_FILE, SITE_FILE)]
    return list(dict.fromkeys(file for file in files if file is not None))


def sqlite_file(config: Config, data_dir: Path, name: str) -> Path | None:
    """The SQLite database of this name, None if it is on a server."""
    url = make_url(database_url(config, data_dir, name))
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def save_database(source: Path, folder: Path) -> None:
    """Copy a database, whoever writes to it. Raises `Rejected` if it cannot be read."""
    target = folder / source.name
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        opened = sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)
        with closing(opened) as original, closing(sqlite3.connect(target)) as copy:
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    except (sqlite3.Error, OSError) as error:
        raise Rejected(f"{source}: {error}") from error


def check_free(copy: Path, target: Path) -> None:
    """Raise `Rejected` if a database is there, other than the copy, which an earlier restore left."""
    files = [target, *(target.with_name(target.name + end) for end in ("-wal", "-shm"))]
    present = [path for path in files if path.exists()]
    if present and not (present == [target] and filecmp.cmp(copy, target, shallow=False)):
        raise Rejected(f"{present[0]}: exists: stop the suite, and move it away first")


def copy_database(folder: Path, target: Path) -> Path:
    """Copy a saved database beside its place, and return the copy. Raises `Rejected` if that fails."""
    partial = target.with_name(target.name + ".new")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(folder / target.name, partial)
        partial.chmod(0o600)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Rejected(f"{error.filename or partial}: {error.strerror}") from error
    return partial


def put_in_place(copies: Mapping[Path, Path]) -> None:
    """Rename each copy to its target.

    Raises:
        Rejected: one cannot be renamed; no target is there then.
    """
    placed: list[Path] = []
    try:
        for copy, target in copies.items():
            copy.replace(target)
            placed.append(target)
    except OSError as error:
        for target in placed:
            target.unlink()
        raise Rejected(f"{target}: {error.strerror}") from error
