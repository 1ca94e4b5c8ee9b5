"""The ledger's tables as queries see them; `migrations/` makes them."""

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
)
"""One row per usage event, its fields as they came; never changed."""

DIMENSIONS = ("model", "tier", "machine", "key_id", "outcome")
COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


def _sums(name: str, over: Column[Any], *more: Column[Any], by: Sequence[str] = DIMENSIONS) -> Table:
    dimensions = (Column(dimension, Text, primary_key=True) for dimension in by)
    return Table(name, metadata, over, *dimensions, *(Column(count, BigInteger) for count in COUNTS), *more)


rollups = _sums("rollups", Column("minute", BigInteger, primary_key=True))
"""Sums of the events by the minute, written in the same transaction and kept for ever."""

hours = _sums("hours", Column("hour", BigInteger, primary_key=True))
"""The same by the hour: what questions about days read."""

minutes = _sums("minutes", Column("minute", BigInteger, primary_key=True), by=("model", "tier", "outcome"))
"""The same by the minute over all machines and keys: what questions about minutes read, and the figures' paces."""

digests = _sums(
    "digests",
    Column("day", Text, primary_key=True),
    Column("hash", Text),
    Column("first_at", Double),
    Column("last_at", Double),
)
"""What is left of the events that are no longer kept: `core.digest` says what the hash is of."""

busy = Table(
    "busy",
    metadata,
    Column("day", Text, primary_key=True),
    Column("machine", Text, primary_key=True),
    Column("begun", Double, primary_key=True),
    Column("ended", Double),
)
"""When machines had requests in flight, on days whose events are no longer kept."""

horizon = Table("horizon", metadata, Column("before", Double), Column("busy_until", Double))
"""One row. What was completed `before` is sealed, or being sealed, and no longer taken; of what was completed until
`busy_until` the busy times are kept."""

key_months = Table(
    "key_months",
    metadata,
    Column("month", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("tokens", BigInteger),
)
"""What counts against a key's quota: prompt and completion of the events that did not fail, in the same transaction."""

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
"""Every source ever seen; its row is the lock on its runs. `written`, `heard_at` and `left` are what it said of itself:
the number of its newest event, when, and whether that was its last word. The last four are 0 unless the ledger was
found behind what it had confirmed: see `core.ends.Source`."""

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
    Column("kind", Text),
    Column("lacking", Boolean),
    Column("name", Text),
    Column("recounted_at", Double),
)
"""Messages that cannot be counted, as they came. `lacking`: their source and number are known, and nothing else came
under that number before. `name`: the key or source that is unknown. `recounted_at`: since then it is counted."""

known_keys = Table("known_keys", metadata, Column("key_id", Text, primary_key=True))
"""The ids of all keys that ever were on the bus, revoked and lost ones too."""

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
"""Numbers of a source that somebody has declared lost."""

unknowns = Table(
    "unknowns",
    metadata,
    Column("what", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("events", BigInteger),
    Column("first_at", Double),
    Column("last_at", Double),
)
"""Models that events name and the configuration does not, counted like any other; in old ledgers keys too."""
