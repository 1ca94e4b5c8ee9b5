"""The ledger's tables as queries see them; `migrations/` makes them."""

from sqlalchemy import BigInteger, Boolean, Column, Double, LargeBinary, MetaData, Table, Text

metadata = MetaData()

events = Table(
    "events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source", Text),
    Column("source_seq", BigInteger),
    Column("completed_at", Double),
    Column("key_id", Text),
    Column("model", Text),
    Column("tier", Text),
    Column("machine", Text),
    Column("generation", BigInteger),
    Column("prompt_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("basis", Text),
    Column("outcome", Text),
    Column("status", BigInteger),
    Column("streamed", Boolean),
    Column("wake_wait", Double),
    Column("wake_id", Text),
    Column("first_token", Double),
    Column("duration", Double),
    Column("overhead", Double),
)
"""One row per usage event, its fields as they came; never changed."""

rollups = Table(
    "rollups",
    metadata,
    Column("minute", BigInteger, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tier", Text, primary_key=True),
    Column("machine", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("requests", BigInteger),
    Column("prompt_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
)
"""Sums of the events' rows, written in the same transaction."""

key_months = Table(
    "key_months",
    metadata,
    Column("month", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("tokens", BigInteger),
)
"""What counts against a key's quota: prompt and completion of the events that did not fail, in the same transaction."""

sources = Table("sources", metadata, Column("source", Text, primary_key=True), Column("seen_at", Double))
"""Every source ever seen; its row is the lock on its runs."""

runs = Table(
    "runs",
    metadata,
    Column("source", Text, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger),
    Column("first_at", Double),
    Column("last_at", Double),
)
"""Which numbers of a source have arrived; the run that begins with 1 is the mark, the others lie behind gaps."""

conflicts = Table(
    "conflicts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("payload", LargeBinary),
    Column("received_at", Double),
)
"""Messages that came under an id whose event says something else; the first one counts."""

quarantine = Table(
    "quarantine",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("payload", LargeBinary),
    Column("reason", Text),
    Column("source", Text),
    Column("source_seq", BigInteger),
    Column("at", Double),
    Column("received_at", Double),
)
"""Messages that cannot be counted, as they came."""
