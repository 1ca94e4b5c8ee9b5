"""What a restored copy of the site's database may not bring back: sessions, and people who were blocked since."""

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from shared.ids import uuid7

TABLES = {"people", "sessions", "sign_ins", "site_audit"}


class ClosedAccounts(NamedTuple):
    """What was closed."""

    sessions: int
    people: int


def close_accounts(file: Path, at: float, operators: Collection[str]) -> ClosedAccounts:
    """End every session in a copy of the database that was made `at`, and block everybody but the operators.

    The copy does not know which sessions have ended since, nor who has been blocked: operators, whom the configuration
    names, let each person in again. The same copy becomes the same file each time. Raises `sqlite3.Error`.
    """
    with closing(sqlite3.connect(file)) as database, database:
        present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not present >= TABLES:
            return ClosedAccounts(0, 0)
        database.execute("DELETE FROM sign_ins")
        sessions = database.execute(
            "UPDATE sessions SET ended_at = ?, ended_why = 'restored from a backup' WHERE ended_at IS NULL", (at,)
        ).rowcount
        held = [
            (at, identity)
            for (identity,) in database.execute("SELECT id FROM people WHERE blocked_at IS NULL ORDER BY id")
            if identity not in operators
        ]
        database.executemany("UPDATE people SET blocked_at = ? WHERE id = ?", held)
        detail = f"{sessions} sessions ended, {len(held)} people blocked until an operator lets them in again"
        database.execute(
            "INSERT INTO site_audit (id, at, person, login, action, object, detail, network) "
            "VALUES (?, ?, '', 'spotinference restore', 'restored_from_a_backup', '', ?, '')",
            (uuid7(at, bytes(10)), at, detail),
        )
        return ClosedAccounts(sessions, len(held))
