"""Throughput and latency: hourly sketches from now on; tokens per minute, filled from the rollups.

A meter of the version before adds nothing to either: end it first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TOKENS = ("prompt_tokens", "completion_tokens")
_ROLLUPS = sa.table("rollups", *(sa.column(name) for name in ("minute", "tier", "model", "outcome", *_TOKENS)))
_DAY = 24 * 60


def upgrade() -> None:
    op.create_table(
        "figures",
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("tier", "model", "metric")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("count", "total")),
        sa.Column("bins", sa.LargeBinary, nullable=False),
    )
    paces = op.create_table(
        "paces",
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("tier", "model")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _TOKENS),
    )
    connection = op.get_bind()
    c, first = _ROLLUPS.c, sa.select(sa.func.min(_ROLLUPS.c.minute))
    begun = connection.scalar(first)
    while begun is not None:  # day by day, so that each statement is bounded
        end = (begun // _DAY + 1) * _DAY
        sums = sa.select(c.minute, c.tier, c.model, *(sa.func.sum(c[name]) for name in _TOKENS))
        sums = sums.where(c.minute >= begun, c.minute < end, c.outcome != "failed")
        sums = sums.group_by(c.minute, c.tier, c.model)
        connection.execute(paces.insert().from_select(["minute", "tier", "model", *_TOKENS], sums))
        begun = connection.scalar(first.where(c.minute >= end))
