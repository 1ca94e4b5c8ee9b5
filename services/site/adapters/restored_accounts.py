"""What a restored copy of the site's database may not bring back: sessions that have ended since."""

import sqlite3
from contextlib import closing
from pathlib import Path

from shared.ids import uuid7

TABLES = {"sessions", "sign_ins", "site_audit"}


def end_sessions(file: Path, at: float) -> int:
    """End every session in a copy of the database that was made `at`, and return how many there were.

    The copy does not know which of them have ended since. The same copy becomes the same file each time. Raises
    `sqlite3.Error`.
    """
    with closing(sqlite3.connect(file)) as database, database:
        present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not present >= TABLES:
            return 0
        database.execute("DELETE FROM sign_ins")
        sessions = database.execute(
            "UPDATE sessions SET ended_at = ?, ended_why = 'restored from a backup' WHERE ended_at IS NULL", (at,)
        ).rowcount
        database.execute(
            "INSERT INTO site_audit (id, at, person, login, action, object, detail, network) "
            "VALUES (?, ?, '', 'spotinference restore', 'restored_from_a_backup', '', ?, '')",
            (uuid7(at, bytes(10)), at, f"{sessions} sessions ended"),
        )
        return sessions
