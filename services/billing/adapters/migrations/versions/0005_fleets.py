"""What the configuration said of machines, tiers and prices, and from when on."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
additive = True


def upgrade() -> None:
    op.create_table(
        "fleets",
        sa.Column("since", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content", sa.Text, nullable=False),
    )
