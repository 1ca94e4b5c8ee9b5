"""How gateways answered, by status and code."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
additive = True


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("hour", sa.BigInteger, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("status", sa.BigInteger, primary_key=True),
        sa.Column("code", sa.Text, primary_key=True),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("responses", sa.BigInteger, nullable=False),
    )
    op.create_index("responses_day", "responses", ["day"])
    op.create_table(
        "response_days",
        sa.Column("day", sa.BigInteger, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("status", sa.BigInteger, primary_key=True),
        sa.Column("code", sa.Text, primary_key=True),
        sa.Column("responses", sa.BigInteger, nullable=False),
    )
