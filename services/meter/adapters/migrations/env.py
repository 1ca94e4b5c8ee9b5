"""Alembic's way in."""

from shared.database import run_migrations

run_migrations()
