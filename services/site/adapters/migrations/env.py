"""Alembic's way in."""

from shared.schema import run_migrations

run_migrations()
