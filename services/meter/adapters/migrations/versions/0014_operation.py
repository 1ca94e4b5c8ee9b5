"""What a request asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
additive = True


def upgrade() -> None:
    op.add_column("events", sa.Column("operation", sa.Text, nullable=False, server_default=""))
