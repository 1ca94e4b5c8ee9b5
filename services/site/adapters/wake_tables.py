"""The tables of wakes, as queries see them; `migrations/` creates them. Moments are milliseconds since 1970."""

from sqlalchemy import BigInteger, Boolean, Column, Double, MetaData, Table, Text

metadata = MetaData()

wake_facts = Table(
    "wake_facts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("wake_id", Text),
    Column("machine", Text),
    Column("tier", Text),
    Column("at", BigInteger),
    Column("from_state", Text),
    Column("to_state", Text),
    Column("key_id", Text),
    Column("phase", Text),
    Column("seconds", Double),
    Column("done", Boolean),
)
"""What each journal entry says of a wake."""

wakes = Table(
    "wakes",
    metadata,
    Column("wake_id", Text, primary_key=True),
    Column("tier", Text),
    Column("machine", Text),
    Column("key_id", Text),
    Column("began_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("outcome", Text),
    Column("was_asleep", Boolean),
    Column("failed_phase", Text),
    Column("attempts", BigInteger),
)
"""What the facts of each wake make. Kept for good."""
