"""Where the schema of the books is: its SQLite file, its migrations and their table."""

from pathlib import Path

BOOKS_FILE = "books.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "books_version"
