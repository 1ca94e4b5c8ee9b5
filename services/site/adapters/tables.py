"""The site's tables as queries see them; `migrations/` creates them. Times are Unix seconds."""

from sqlalchemy import Column, Double, MetaData, Table, Text

metadata = MetaData()

people = Table(
    "people",
    metadata,
    Column("id", Text, primary_key=True),  # the identity: `github:583231`
    Column("login", Text),
    Column("name", Text),
    Column("created_at", Double),
    Column("signed_in_at", Double),
    Column("blocked_at", Double),
)
sessions = Table(
    "sessions",
    metadata,
    Column("sha256", Text, primary_key=True),  # of the cookie's value
    Column("id", Text),
    Column("person", Text),
    Column("created_at", Double),
    Column("seen_at", Double),
    Column("ends_at", Double),
    Column("ended_at", Double),
    Column("ended_why", Text),
    Column("network", Text),
    Column("user_agent", Text),
)
account_issuers = Table(
    "account_issuers",
    metadata,
    Column("provider", Text, primary_key=True),  # `github`, `oidc`
    Column("issuer", Text),  # of the accounts that the provider has here
)
sent_forms = Table("sent_forms", metadata, Column("sha256", Text, primary_key=True), Column("sent_at", Double))
site_audit = Table(
    "site_audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double),
    Column("person", Text),
    Column("login", Text),
    Column("action", Text),
    Column("object", Text),
    Column("detail", Text),
    Column("network", Text),
)
