"""The engine's process that a reading was taken from."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("engine_readings", sa.Column("process", sa.Text))
