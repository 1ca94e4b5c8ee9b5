"""The engines' counts by day, the events that explain differences, and the audits."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "engine_readings",
        sa.Column("machine", sa.Text, primary_key=True),
        *_counts("generation", "prompt_tokens", "completion_tokens", "running", "rounding"),
        sa.Column("requests", sa.BigInteger),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "engine_days",
        # The day first: queries read everything of one day.
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("machine", sa.Text, primary_key=True),
        sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("whole", sa.Boolean, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
        *_counts("prompt_tokens", "completion_tokens", "readings", "resets", "running", "rounding"),
        sa.Column("requests", sa.BigInteger),
    )
    op.create_table(
        "engine_faults",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("machine", sa.Text, primary_key=True),
        *_counts("failed"),
        sa.Column("fault", sa.Text, nullable=False),
    )
    op.create_table(
        "engine_notes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("since", sa.Double),
    )
    op.create_index("engine_notes_at", "engine_notes", ["at"])
    op.create_table(
        "audits",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]
