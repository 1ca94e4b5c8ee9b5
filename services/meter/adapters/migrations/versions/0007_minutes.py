"""Sums per minute over all machines and keys, filled from the rollups; they replace the paces.

A meter of the version before adds nothing to them: end it first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_KEY = ("minute", "model", "tier", "outcome")
_COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_ROLLUPS = sa.table("rollups", *(sa.column(name) for name in (*_KEY, *_COUNTS)))
_DAY = 24 * 60


def upgrade() -> None:
    minutes = op.create_table(
        "minutes",
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in _KEY[1:]),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS),
    )
    connection = op.get_bind()
    c, first = _ROLLUPS.c, sa.select(sa.func.min(_ROLLUPS.c.minute))
    begun = connection.scalar(first)
    while begun is not None:  # day by day, so that each statement is bounded
        end = (begun // _DAY + 1) * _DAY
        sums = sa.select(*(c[name] for name in _KEY), *(sa.func.sum(c[name]) for name in _COUNTS))
        sums = sums.where(c.minute >= begun, c.minute < end).group_by(*(c[name] for name in _KEY))
        connection.execute(minutes.insert().from_select([*_KEY, *_COUNTS], sums))
        begun = connection.scalar(first.where(c.minute >= end))
    op.drop_table("paces")
