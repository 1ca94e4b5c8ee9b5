"""By source, what a restored ledger had confirmed, and how far the stream was searched for it."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    for name, kind in (
        ("confirmed", sa.BigInteger),
        ("confirmed_at", sa.Double),
        ("lacking_since", sa.Double),
        ("sought", sa.BigInteger),
    ):
        op.add_column("sources", sa.Column(name, kind, nullable=False, server_default="0"))
