"""Payable amounts of charges that name no invoice; what looked wrong about an import."""

import sqlalchemy as sa
from alembic import op

from shared.database import ExactDecimal

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("payables") as payables:
        payables.add_column(sa.Column("account", sa.Text))
        payables.add_column(sa.Column("period_start", sa.BigInteger))
        payables.add_column(sa.Column("period_end", sa.BigInteger))
    with op.batch_alter_table("snapshots") as snapshots:
        snapshots.add_column(sa.Column("usual_day", ExactDecimal))
        snapshots.add_column(sa.Column("warnings", sa.Text, nullable=False, server_default="[]"))
