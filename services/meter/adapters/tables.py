"""The ledger's tables as queries see them; `migrations/` creates them."""

from collections.abc import Sequence
from typing import Any

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
    Column("moved_from", Text),
    Column("choices", BigInteger),
    Column("max_tokens", BigInteger),
    Column("body_bytes", BigInteger),
    Column("operation", Text),
)
"""One row per usage event with its fields as received; never changed."""

DIMENSIONS = ("model", "tier", "machine", "key_id", "outcome")
COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


def _sums(name: str, over: Column[Any], *more: Column[Any], by: Sequence[str] = DIMENSIONS) -> Table:
    dimensions = (Column(dimension, Text, primary_key=True) for dimension in by)
    return Table(name, metadata, over, *dimensions, *(Column(count, BigInteger) for count in COUNTS), *more)


rollups = _sums("rollups", Column("minute", BigInteger, primary_key=True))
"""Sums of the events per minute, written in the same transaction and kept for ever."""

hours = _sums("hours", Column("hour", BigInteger, primary_key=True))
"""The same per hour: queries about days read it."""

minutes = _sums("minutes", Column("minute", BigInteger, primary_key=True), by=("model", "tier", "outcome"))
"""The same per minute over all machines and keys: queries about minutes read it, and the figures' paces."""

digests = _sums(
    "digests",
    Column("day", Text, primary_key=True),
    Column("hash", Text),
    Column("first_at", Double),
    Column("last_at", Double),
)
"""What remains of events that are no longer kept; `core.digest` defines the hash."""

busy = Table(
    "busy",
    metadata,
    Column("day", Text, primary_key=True),
    Column("machine", Text, primary_key=True),
    Column("begun", Double, primary_key=True),
    Column("ended", Double),
)
"""When machines had requests in flight, for days whose events are no longer kept."""

horizon = Table("horizon", metadata, Column("before", Double), Column("busy_until", Double))
"""One row. Events that completed `before` are sealed or being sealed, and no longer accepted; the busy times of those
that completed until `busy_until` are stored."""

key_months = Table(
    "key_months",
    metadata,
    Column("month", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("tokens", BigInteger),
)
"""Tokens that count against a key's quota: prompt and completion of events that did not fail, written with them."""

sources = Table(
    "sources",
    metadata,
    Column("source", Text, primary_key=True),
    Column("seen_at", Double),
    Column("written", BigInteger),
    Column("heard_at", Double),
    Column("left", Boolean),
    Column("confirmed", BigInteger),
    Column("confirmed_at", Double),
    Column("lacking_since", Double),
    Column("sought", BigInteger),
)
"""Every source ever seen; its row is the lock on its rows in `runs`. `written`, `heard_at` and `left` are from its last
heartbeat: the number of its newest event, when it arrived, and whether it was the final one. The last four are 0 unless
the ledger was behind what it had confirmed: see `core.completeness.Source`."""

runs = Table(
    "runs",
    metadata,
    Column("source", Text, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger),
    Column("first_at", Double),
    Column("last_at", Double),
)
"""Which numbers of a source have arrived, as ranges: the one that begins with 1 is the mark, others follow gaps."""

conflicts = Table(
    "conflicts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("payload", LargeBinary),
    Column("received_at", Double),
)
"""Messages whose id has a different event in the ledger; the first one counts."""

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
    Column("kind", Text),
    Column("lacking", Boolean),
    Column("name", Text),
    Column("recounted_at", Double),
)
"""Messages that cannot be counted, as received. `lacking`: their source and number are known, and nothing else has that
number. `name`: the unknown key or source. `recounted_at`: since when the message is counted."""

known_keys = Table("known_keys", metadata, Column("key_id", Text, primary_key=True))
"""The ids of all keys that were ever on the bus, including revoked and lost ones."""

key_records = Table(
    "key_records",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("key_id", Text),
    Column("record", LargeBinary),
    Column("revoked_at", Double),
)
"""Every API key's record as the bus had it, by the SHA-256 of its secret: never deleted, and never un-revoked."""

losses = Table(
    "losses",
    metadata,
    Column("source", Text, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger),
    Column("declared_by", Text),
    Column("reason", Text),
    Column("declared_at", Double),
)
"""Numbers of a source that were declared lost."""

unknowns = Table(
    "unknowns",
    metadata,
    Column("what", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("events", BigInteger),
    Column("first_at", Double),
    Column("last_at", Double),
)
"""Models that events name and the configuration does not have; they count like any other. In old ledgers keys too."""

responses = Table(
    "responses",
    metadata,
    Column("hour", BigInteger, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("status", BigInteger, primary_key=True),
    Column("code", Text, primary_key=True),
    Column("day", BigInteger),
    Column("responses", BigInteger),
)
"""How each gateway answered in each hour, as far as it said so. Hours and days are since 1970."""

response_days = Table(
    "response_days",
    metadata,
    Column("day", BigInteger, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("status", BigInteger, primary_key=True),
    Column("code", Text, primary_key=True),
    Column("responses", BigInteger),
)
"""The same over all gateways for older days, kept for good."""
