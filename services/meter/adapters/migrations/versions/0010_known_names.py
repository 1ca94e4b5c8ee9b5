"""Every key that ever existed; when quarantined messages were recounted, and their unknown name."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table("known_keys", sa.Column("key_id", sa.Text, primary_key=True))
    # Events of keys that counted before still count when repeated.
    op.execute(sa.text("INSERT INTO known_keys SELECT DISTINCT key_id FROM hours"))
    op.add_column("quarantine", sa.Column("name", sa.Text))
    op.add_column("quarantine", sa.Column("recounted_at", sa.Double))
    op.create_index("quarantine_name", "quarantine", ["name"])
