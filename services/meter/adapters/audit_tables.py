"""The audit's tables as queries see them; `migrations/` makes them."""

from sqlalchemy import BigInteger, Boolean, Column, Double, LargeBinary, Table, Text

from services.meter.adapters.tables import metadata

engine_readings = Table(
    "engine_readings",
    metadata,
    Column("machine", Text, primary_key=True),
    Column("generation", BigInteger),
    Column("at", Double),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("requests", BigInteger),
    Column("running", BigInteger),
    Column("rounding", BigInteger),
    Column("process", Text),
)
"""The last look at each machine's engine: its counters as they were."""

engine_days = Table(
    "engine_days",
    metadata,
    Column("day", Text, primary_key=True),
    Column("machine", Text, primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("since", Double),
    Column("whole", Boolean),
    Column("last_at", Double),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("requests", BigInteger),
    Column("readings", BigInteger),
    Column("resets", BigInteger),
    Column("running", BigInteger),
    Column("rounding", BigInteger),
)
"""What the counters rose by, as `core.readings.EngineDay`."""

engine_faults = Table(
    "engine_faults",
    metadata,
    Column("day", Text, primary_key=True),
    Column("machine", Text, primary_key=True),
    Column("failed", BigInteger),
    Column("fault", Text),
)
"""Looks that brought no counters, and why the last of them did not."""

engine_notes = Table(
    "engine_notes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("machine", Text),
    Column("at", Double),
    Column("kind", Text),
    Column("amount", BigInteger),
    Column("since", Double),
)
"""What explains differences, as `core.audit.Note`; the id says what it came of, so that none is there twice."""

audits = Table(
    "audits",
    metadata,
    Column("day", Text, primary_key=True),
    Column("at", Double),
    Column("final", Boolean),
    Column("events", BigInteger),
    Column("payload", LargeBinary),
)
"""The last audit of each day, as it was published."""
