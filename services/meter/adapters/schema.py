"""Where the ledger's schema is: its SQLite file, its migrations and their table."""

from pathlib import Path

LEDGER_FILE = "ledger.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "ledger_version"
