"""Which machine had a request first, and how many choices were asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("events", sa.Column("moved_from", sa.Text))
    op.add_column("events", sa.Column("choices", sa.BigInteger, nullable=False, server_default="1"))
