"""The books' tables as queries see them; `migrations/` makes them. Moments are milliseconds since 1970."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, Table, Text

from shared.database import ExactDecimal

_metadata = MetaData()

snapshots = Table(
    "snapshots",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("source", Text),
    Column("issuer", Text),
    Column("account", Text),
    Column("period_start", BigInteger),
    Column("period_end", BigInteger),
    Column("sha256", Text),
    Column("file_name", Text),
    Column("active", Boolean),
    Column("imported_at", Double),
)
"""One per import and (issuer, account, billing period); only active ones count, the others stay as evidence."""

cost_rows = Table(
    "cost_rows",
    _metadata,
    Column("id", BigInteger, primary_key=True),
    Column("snapshot_id", Integer),
    Column("charge_start", BigInteger),
    Column("charge_end", BigInteger),
    Column("billed", ExactDecimal),
    Column("effective", ExactDecimal),
    Column("list_cost", ExactDecimal),
    Column("category", Text),
    Column("charge_class", Text),
    Column("service_category", Text),
    Column("resource_id", Text),
    Column("tags", Text),
    Column("invoice_id", Text),
    Column("description", Text),
    Column("consumed_quantity", Text),
    Column("consumed_unit", Text),
)
"""Charges as delivered, never changed and never made one."""

transitions = Table(
    "transitions",
    _metadata,
    Column("id", BigInteger, primary_key=True),
    Column("machine", Text),
    Column("at", BigInteger),
    Column("to_state", Text),
    Column("from_state", Text),
    Column("tier", Text),
    Column("reason", Text),
    Column("wake_id", Text),
    Column("key_id", Text),
)
"""The fleet's journal, as far as states go; one row per machine, moment and state, however often it was told."""

revisions = Table(
    "revisions",
    _metadata,
    Column("day", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("report", Text),
    Column("inputs", Text),
    Column("digest", Text),
    Column("made_at", Double),
)
"""Every report that was ever told, with what it was made from; append-only."""
