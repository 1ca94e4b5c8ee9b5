"""The machine that a request failed over from, and its number of choices."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("events", sa.Column("moved_from", sa.Text))
    op.add_column("events", sa.Column("choices", sa.BigInteger, nullable=False, server_default="1"))
