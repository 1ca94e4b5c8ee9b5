"""Hourly sums; sealed days; gateways' heartbeats; declared losses; unknown names; the quarantine's kinds.

A meter of the version before does not know the hours and adds nothing to them: end it first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

DIMENSIONS = ("model", "tier", "machine", "key_id", "outcome")
COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_ROLLUPS = sa.table("rollups", *(sa.column(name) for name in ("minute", *DIMENSIONS, *COUNTS)))
_MINUTES = 24 * 60


def upgrade() -> None:
    _hours()
    _sealed_days()
    op.create_table(
        "losses",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("declared_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("declared_at", sa.Double, nullable=False),
    )
    op.create_table(
        "unknowns",
        sa.Column("what", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.Double, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
    )
    op.add_column("sources", sa.Column("written", sa.BigInteger))
    op.add_column("sources", sa.Column("heard_at", sa.Double))
    op.add_column("sources", sa.Column("left", sa.Boolean, nullable=False, server_default=sa.false()))
    # Until now every message was there because it was unreadable, and its day lacked it if its number was known.
    op.add_column("quarantine", sa.Column("kind", sa.Text, nullable=False, server_default="unreadable"))
    op.add_column("quarantine", sa.Column("lacking", sa.Boolean, nullable=False, server_default=sa.true()))
    op.execute(sa.text("UPDATE quarantine SET lacking = (source_seq IS NOT NULL)"))


def _hours() -> None:
    hours = op.create_table(
        "hours",
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in DIMENSIONS),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTS),
    )
    connection = op.get_bind()
    c, first = _ROLLUPS.c, sa.select(sa.func.min(_ROLLUPS.c.minute))
    begun = connection.scalar(first)
    while begun is not None:  # day by day, so that each statement is bounded
        end = (begun // _MINUTES + 1) * _MINUTES
        hour = sa.type_coerce(c.minute, sa.BigInteger) // 60
        dimensions = [c[name] for name in DIMENSIONS]
        sums = sa.select(hour, *dimensions, *(sa.func.sum(c[name]) for name in COUNTS))
        sums = sums.where(c.minute >= begun, c.minute < end).group_by(hour, *dimensions)
        connection.execute(hours.insert().from_select(["hour", *DIMENSIONS, *COUNTS], sums))
        begun = connection.scalar(first.where(c.minute >= end))


def _sealed_days() -> None:
    op.create_table(
        "digests",
        sa.Column("day", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, primary_key=True) for name in DIMENSIONS),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTS),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("first_at", sa.Double, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
    )
    op.create_table(
        "busy",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("machine", sa.Text, primary_key=True),
        sa.Column("begun", sa.Double, primary_key=True),
        sa.Column("ended", sa.Double, nullable=False),
    )
    # One row, which is the lock between the writers of events and the sealing replica.
    horizon = op.create_table(
        "horizon",
        sa.Column("before", sa.Double, nullable=False),
        sa.Column("busy_until", sa.Double, nullable=False),
    )
    op.execute(horizon.insert().values(before=0.0, busy_until=0.0))
