"""Charges in any currency and in bulk, payable amounts, accruals by the hour, bands in force."""

import sqlalchemy as sa
from alembic import op

from shared.database import ExactDecimal

revision = "0002"
down_revision = "0001"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "snapshot_files",
        sa.Column("snapshot_id", sa.Integer, sa.ForeignKey("snapshots.id"), primary_key=True),
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("file_name", sa.Text, nullable=False),
    )
    op.execute(
        "INSERT INTO snapshot_files (snapshot_id, sha256, file_name) SELECT id, sha256, file_name FROM snapshots"
    )
    with op.batch_alter_table("snapshots") as snapshots:
        snapshots.drop_column("file_name")  # `sha256` becomes that of the delivery: of one file its own
        snapshots.add_column(sa.Column("currency", sa.Text, nullable=False, server_default="USD"))
        snapshots.add_column(sa.Column("rows", sa.BigInteger, nullable=False, server_default="0"))
        snapshots.add_column(sa.Column("terms", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "snapshot_invoices",
        sa.Column("snapshot_id", sa.Integer, sa.ForeignKey("snapshots.id"), primary_key=True),
        sa.Column("invoice_id", sa.Text, primary_key=True),
        sa.Column("billed", ExactDecimal, nullable=False),
    )
    op.execute(
        "UPDATE snapshots SET rows = (SELECT count(*) FROM cost_rows WHERE cost_rows.snapshot_id = snapshots.id)"
    )
    with op.batch_alter_table("cost_rows") as cost_rows:
        cost_rows.drop_column("description")
        cost_rows.add_column(sa.Column("currency", sa.Text, nullable=False, server_default="USD"))
        cost_rows.add_column(sa.Column("per_usd", sa.Text, nullable=False, server_default="1"))
        cost_rows.add_column(sa.Column("parent_id", sa.Text))
        cost_rows.add_column(sa.Column("service_name", sa.Text))
        cost_rows.add_column(sa.Column("rows", sa.BigInteger, nullable=False, server_default="1"))
    op.create_index("cost_rows_by_invoice", "cost_rows", ["invoice_id"])
    op.create_table(
        "payables",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text),
        sa.Column("invoice_id", sa.Text, nullable=False),
        sa.Column("amount", ExactDecimal, nullable=False),
        sa.Column("voids", sa.Text),
        sa.Column("noted_at", sa.Double, nullable=False),
    )
    op.create_table(
        "accruals",
        sa.Column("machine", sa.Text, primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True),
        sa.Column("amount", ExactDecimal, nullable=False),
        sa.Column("basis", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("through", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "meters",
        sa.Column("resource", sa.Text, primary_key=True),
        sa.Column("cumulative", ExactDecimal, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "bands",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("low", ExactDecimal),
        sa.Column("high", ExactDecimal),
        sa.Column("basis", sa.Text, nullable=False),
    )
    op.create_table(
        "band_days",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("made_at", sa.Double, nullable=False),
    )
