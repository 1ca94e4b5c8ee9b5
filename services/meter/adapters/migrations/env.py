"""Entry point for Alembic."""

from shared.schema import run_migrations

run_migrations()
