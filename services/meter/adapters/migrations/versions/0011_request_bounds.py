"""The limit of a request's answer, and the length of its body."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("events", sa.Column("max_tokens", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("events", sa.Column("body_bytes", sa.BigInteger, nullable=False, server_default="0"))
