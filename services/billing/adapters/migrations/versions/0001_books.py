"""The books' first tables."""

import sqlalchemy as sa
from alembic import op

from shared.database import ExactDecimal

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("period_start", sa.BigInteger, nullable=False),
        sa.Column("period_end", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("file_name", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("imported_at", sa.Double, nullable=False),
    )
    op.create_index("snapshots_by_key", "snapshots", ["issuer", "account", "period_start", "period_end"])
    op.create_table(
        "cost_rows",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("snapshot_id", sa.Integer, sa.ForeignKey("snapshots.id"), nullable=False),
        sa.Column("charge_start", sa.BigInteger, nullable=False),
        sa.Column("charge_end", sa.BigInteger, nullable=False),
        sa.Column("billed", ExactDecimal, nullable=False),
        sa.Column("effective", ExactDecimal),
        sa.Column("list_cost", ExactDecimal),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("charge_class", sa.Text),
        sa.Column("service_category", sa.Text),
        sa.Column("resource_id", sa.Text),
        sa.Column("tags", sa.Text),
        sa.Column("invoice_id", sa.Text),
        sa.Column("description", sa.Text),
        # Text: a quantity may have more decimals than any amount.
        sa.Column("consumed_quantity", sa.Text),
        sa.Column("consumed_unit", sa.Text),
    )
    op.create_index("cost_rows_by_time", "cost_rows", ["charge_end", "charge_start"])
    op.create_index("cost_rows_by_snapshot", "cost_rows", ["snapshot_id"])
    op.create_table(
        "transitions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("to_state", sa.Text, nullable=False),
        sa.Column("from_state", sa.Text),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("wake_id", sa.Text),
        sa.Column("key_id", sa.Text),
        sa.UniqueConstraint("machine", "at", "to_state"),
    )
    op.create_table(
        "revisions",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
    )
