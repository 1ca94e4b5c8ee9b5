"""People, their sessions, sign-ins under way, forms that were sent, and what was done."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
additive = False


def upgrade() -> None:
    op.create_table(
        "people",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("login", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("signed_in_at", sa.Double, nullable=False),
        sa.Column("blocked_at", sa.Double),
    )
    op.create_table(
        "sessions",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("ends_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("ended_why", sa.Text),
        sa.Column("network", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
    )
    op.create_index("sessions_person", "sessions", ["person"])
    op.create_index("sessions_ends_at", "sessions", ["ends_at"])
    op.create_table(
        "sign_ins",
        sa.Column("state_sha256", sa.Text, primary_key=True),
        sa.Column("browser_sha256", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("verifier", sa.Text, nullable=False),
        sa.Column("next", sa.Text, nullable=False),
        sa.Column("ends_at", sa.Double, nullable=False),
    )
    op.create_index("sign_ins_ends_at", "sign_ins", ["ends_at"])
    op.create_table(
        "sent_forms",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("sent_at", sa.Double, nullable=False),
    )
    op.create_index("sent_forms_sent_at", "sent_forms", ["sent_at"])
    op.create_table(
        "site_audit",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("login", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("network", sa.Text, nullable=False),
    )
    op.create_index("site_audit_person", "site_audit", ["person", "id"])
