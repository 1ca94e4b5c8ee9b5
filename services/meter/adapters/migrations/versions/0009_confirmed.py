"""What a ledger that was restored from an older copy had confirmed of each source, and how far it was looked for."""

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
