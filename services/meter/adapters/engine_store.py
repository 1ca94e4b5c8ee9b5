"""What the engines counted, on the ledger's database. A reading is one transaction; an older one changes nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.audit_tables import engine_days, engine_faults, engine_notes, engine_readings
from services.meter.core.day import Day
from services.meter.core.engine_counters import EngineCounters
from services.meter.core.engine_readings import CounterIncrease, EngineDay, EngineReading, add_reading, counter_increase
from services.meter.core.machine_audit import FleetEvent
from shared.database import read_transaction

NOTES_DAYS = 45
"""A little longer than events are kept; what they explained is in the audits by then."""
JOURNAL_KINDS = ("start", "probe", "lost_probe", "death")
FAULT_LENGTH = 300
_COUNTERS = ("prompt_tokens", "completion_tokens", "requests", "running", "rounding", "process")


class SqlEngineStore:
    """Every call raises one of `shared.database.AWAY` when the database is; nothing is written then."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert: Any = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    async def read(self, reading: EngineReading, day: Day, *, stays: bool) -> bool:
        """False: it is no newer than the one on record."""
        async with self._engine.begin() as connection:
            last = await self._last(connection, reading.machine)
            started_at = await _started_at(connection, reading)
            more = counter_increase(last, reading, day=day, started_at=started_at, stays=stays)
            if more is None:
                return False
            await self._put(connection, engine_readings, _row(reading))
            before = await _day(connection, reading, day)
            await self._put(connection, engine_days, _fields(add_reading(before, reading, more, day)))
            if more.reset:
                await self._note(connection, [_reset(reading, more)])
        return True

    async def failed(self, machine: str, day: Day, fault: str) -> None:
        """A look that brought no counters."""
        insert = self._insert(engine_faults).values(
            day=day.name, machine=machine, failed=1, fault=fault.replace("\0", "")[:FAULT_LENGTH]
        )
        failed = engine_faults.c.failed + 1
        upsert = insert.on_conflict_do_update(
            index_elements=["day", "machine"], set_={"failed": failed, "fault": insert.excluded.fault}
        )
        async with self._engine.begin() as connection:
            await connection.execute(upsert)

    async def note(self, notes: Mapping[str, FleetEvent]) -> None:
        """By what each came of: told again, it is kept once."""
        if notes:
            async with self._engine.begin() as connection:
                await self._note(connection, notes.items())

    async def newest_journal_event_at(self) -> float | None:
        """When the newest thing happened that the fleet's journal told, Unix seconds; None: it told nothing."""
        n = engine_notes.c
        async with read_transaction(self._engine) as connection:
            query = select(func.max(n.at)).where(n.kind.in_(JOURNAL_KINDS))
            found: float | None = (await connection.execute(query)).scalar_one()
        return found

    async def forget(self, now: float) -> None:
        """Notes that nothing can be explained by any more."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(engine_notes).where(engine_notes.c.at < now - NOTES_DAYS * 86400.0))

    async def _last(self, connection: AsyncConnection, machine: str) -> EngineReading | None:
        # The row is the lock between two that take themselves for the leader.
        query = select(engine_readings).where(engine_readings.c.machine == machine).with_for_update()
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        counters = EngineCounters(**{name: getattr(row, name) for name in _COUNTERS})
        return EngineReading(machine=machine, generation=row.generation, at=row.at, counters=counters)

    async def _note(self, connection: AsyncConnection, notes: Iterable[tuple[str, FleetEvent]]) -> None:
        rows = [
            {"id": key, "machine": n.machine, "at": n.at, "kind": n.kind, "amount": n.amount, "since": n.since}
            for key, n in sorted(notes)
        ]
        await connection.execute(self._insert(engine_notes).on_conflict_do_nothing(), rows)

    async def _put(self, connection: AsyncConnection, table: Any, row: dict[str, Any]) -> None:
        insert = self._insert(table)
        keys = [column.name for column in table.primary_key.columns]
        rest = {name: insert.excluded[name] for name in row if name not in keys}
        await connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=rest), row)


async def _started_at(connection: AsyncConnection, reading: EngineReading) -> float | None:
    n = engine_notes.c
    query = select(func.max(n.at)).where(n.machine == reading.machine, n.kind == "start", n.at <= reading.at)
    found: float | None = (await connection.execute(query)).scalar_one()
    return found


async def _day(connection: AsyncConnection, reading: EngineReading, day: Day) -> EngineDay | None:
    d = engine_days.c
    query = select(engine_days).where(
        d.day == bindparam("of"), d.machine == reading.machine, d.generation == reading.generation
    )
    row = (await connection.execute(query, {"of": day.name})).one_or_none()
    return None if row is None else EngineDay(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it


def _row(reading: EngineReading) -> dict[str, Any]:
    counters = {name: getattr(reading.counters, name) for name in _COUNTERS}
    return {"machine": reading.machine, "generation": reading.generation, "at": reading.at, **counters}


def _fields(day: EngineDay) -> dict[str, Any]:
    return {name: getattr(day, name) for name in engine_days.columns.keys()}  # noqa: SIM118 - columns, not a dict


def _reset(reading: EngineReading, more: CounterIncrease) -> tuple[str, FleetEvent]:
    note = FleetEvent(machine=reading.machine, at=reading.at, kind="reset", since=more.since)
    return f"reset/{reading.machine}/{reading.at!r}", note
