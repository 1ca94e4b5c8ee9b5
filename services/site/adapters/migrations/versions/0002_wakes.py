"""Wakes, and the entries of the journal that they are made from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
additive = True


def upgrade() -> None:
    op.create_table(
        "wake_facts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("wake_id", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("from_state", sa.Text, nullable=False),
        sa.Column("to_state", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
    )
    op.create_index("wake_facts_wake", "wake_facts", ["wake_id"])
    op.create_index("wake_facts_at", "wake_facts", ["at"])
    op.create_table(
        "wakes",
        sa.Column("wake_id", sa.Text, primary_key=True),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("began_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("was_asleep", sa.Boolean, nullable=False),
        sa.Column("failed_phase", sa.Text, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
    )
    op.create_index("wakes_began", "wakes", ["began_at"])
    op.create_index("wakes_key", "wakes", ["key_id", "began_at"])
