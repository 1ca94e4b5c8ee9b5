"""A copy of the API keys' records."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
additive = True


def upgrade() -> None:
    op.create_table(
        "key_records",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("revoked_at", sa.Double),
    )
