"""Where the site's schema is: its SQLite file, its migrations and their table."""

from pathlib import Path

SITE_FILE = "site.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "site_version"
