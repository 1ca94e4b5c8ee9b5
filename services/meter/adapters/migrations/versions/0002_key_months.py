"""The tokens of each key in each month, filled from the rollups.

A meter of the version before does not know the table and adds nothing to it: end it first.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ROLLUPS = sa.table(
    "rollups", *(sa.column(name) for name in ("minute", "key_id", "outcome", "prompt_tokens", "completion_tokens"))
)


def upgrade() -> None:
    months = op.create_table(
        "key_months",
        # The month first: queries read all keys of one month.
        sa.Column("month", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
    )
    connection = op.get_bind()
    minute, first = _ROLLUPS.c.minute, sa.select(sa.func.min(_ROLLUPS.c.minute))
    begun = connection.scalar(first)
    while begun is not None:
        start = datetime.fromtimestamp(begun * 60, UTC)
        year, month = (start.year, start.month + 1) if start.month < 12 else (start.year + 1, 1)
        end = int(datetime(year, month, 1, tzinfo=UTC).timestamp()) // 60
        within = (minute >= begun) & (minute < end)
        connection.execute(months.insert().from_select(["month", "key_id", "tokens"], _sums(f"{start:%Y-%m}", within)))
        begun = connection.scalar(first.where(minute >= end))


def _sums(month: str, within: sa.ColumnElement[bool]) -> sa.Select[tuple[str, str, int]]:
    c = _ROLLUPS.c
    tokens = sa.func.sum(c.prompt_tokens + c.completion_tokens)
    query = sa.select(sa.literal(month, sa.Text), c.key_id, tokens).where(within, c.outcome != "failed")
    return query.group_by(c.key_id)
