"""The ledger: events, rollups, sources, runs, conflicts, quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _events()
    _rollups()
    op.create_table(
        "sources",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("seen_at", sa.Double, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.Double, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
    )
    op.create_table(
        "conflicts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("source_seq", sa.BigInteger),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
    )


def _events() -> None:
    texts = ("source", "key_id", "model", "tier", "machine", "basis", "outcome")
    counts = ("source_seq", "generation", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    seconds = ("completed_at", "wake_wait", "duration", "overhead")
    op.create_table(
        "events",
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in (*counts, "status")),
        *(sa.Column(name, sa.Double, nullable=False) for name in seconds),
        sa.Column("streamed", sa.Boolean, nullable=False),
        sa.Column("wake_id", sa.Text),
        sa.Column("first_token", sa.Double),
    )
    op.create_index("events_completed_at", "events", ["completed_at"])


def _rollups() -> None:
    dimensions = ("model", "tier", "machine", "key_id", "outcome")
    counts = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    op.create_table(
        "rollups",
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in dimensions),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
    )
