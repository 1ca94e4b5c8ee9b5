"""Whose accounts each provider's are: the same number means somebody else at another issuer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
additive = True


def upgrade() -> None:
    op.create_table(
        "account_issuers",
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("issuer", sa.Text, nullable=False),
    )
