"""Which delivery a snapshot came with, what rounding took from it, and why it was read again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("snapshots") as snapshots:
        snapshots.add_column(sa.Column("delivery", sa.Integer))
        snapshots.add_column(sa.Column("residue", sa.Text))
        snapshots.add_column(sa.Column("reread", sa.Text))
    # The snapshots of one delivery were written in one transaction, at one moment.
    op.execute(
        "UPDATE snapshots SET delivery = (SELECT min(same.id) FROM snapshots AS same "
        "WHERE same.source = snapshots.source AND same.imported_at = snapshots.imported_at)"
    )
