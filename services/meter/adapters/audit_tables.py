"""The audit's tables as queries see them; `migrations/` creates them."""

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
"""The last reading of each machine's engine."""

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
"""By how much the counters increased, as `core.engine_readings.EngineDay`."""

engine_faults = Table(
    "engine_faults",
    metadata,
    Column("day", Text, primary_key=True),
    Column("machine", Text, primary_key=True),
    Column("failed", BigInteger),
    Column("fault", Text),
)
"""Failed readings, and the last one's reason."""

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
"""Events that may explain differences, as `core.fleet_event.FleetEvent`. Their id names their origin."""

audits = Table(
    "audits",
    metadata,
    Column("day", Text, primary_key=True),
    Column("at", Double),
    Column("final", Boolean),
    Column("events", BigInteger),
    Column("payload", LargeBinary),
)
"""The last audit of each day, as published."""
