"""What engines counted, in the ledger's database. A reading is one transaction; an older one changes nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.audit_tables import engine_days, engine_faults, engine_notes, engine_readings
from services.meter.core.day import Day
from services.meter.core.engine_counters import EngineCounters
from services.meter.core.engine_readings import CounterIncrease, EngineDay, EngineReading, add_reading, counter_increase
from services.meter.core.fleet_event import EVENT_RETENTION_S, JOURNAL_KINDS, FleetEvent, FleetEventKind
from shared.database import dialect_insert, read_transaction

MAX_ERROR_LENGTH = 300
"""Characters."""
_COUNTERS = ("prompt_tokens", "completion_tokens", "requests", "running", "rounding", "process")


class SqlEngineStore:
    """The port `EngineStore` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def record_reading(self, reading: EngineReading, day: Day, *, is_unmanaged: bool) -> bool:
        """Store a reading; False if it is no newer than the stored one."""
        async with self._engine.begin() as connection:
            last = await self._last(connection, reading.machine)
            started_at = await _started_at(connection, reading)
            increase = counter_increase(last, reading, day=day, started_at=started_at, is_unmanaged=is_unmanaged)
            if increase is None:
                return False
            await self._put(connection, engine_readings, _row(reading))
            before = await _day(connection, reading, day)
            await self._put(connection, engine_days, _fields(add_reading(before, reading, increase, day)))
            if increase.reset:
                await self._insert_events(connection, [_reset(reading, increase)])
        return True

    async def record_failure(self, machine: str, day: Day, reason: str) -> None:
        """Store that an engine's counters could not be read."""
        insert = self._insert(engine_faults).values(
            day=day.name, machine=machine, failed=1, fault=reason.replace("\0", "")[:MAX_ERROR_LENGTH]
        )
        failed = engine_faults.c.failed + 1
        upsert = insert.on_conflict_do_update(
            index_elements=["day", "machine"], set_={"failed": failed, "fault": insert.excluded.fault}
        )
        async with self._engine.begin() as connection:
            await connection.execute(upsert)

    async def record_events(self, events: Mapping[str, FleetEvent]) -> None:
        """Store events by an id of what each came from: a repeated one is stored once."""
        if events:
            async with self._engine.begin() as connection:
                await self._insert_events(connection, events.items())

    async def newest_journal_event_at(self) -> float | None:
        """Return when the newest event of the fleet's journal happened (Unix seconds); None: there is none."""
        n = engine_notes.c
        async with read_transaction(self._engine) as connection:
            query = select(func.max(n.at)).where(n.kind.in_(JOURNAL_KINDS))
            newest: float | None = (await connection.execute(query)).scalar_one()
        return newest

    async def delete_old_events(self, now: float) -> None:
        """Delete events that are too old to explain anything."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(engine_notes).where(engine_notes.c.at < now - EVENT_RETENTION_S))

    async def _last(self, connection: AsyncConnection, machine: str) -> EngineReading | None:
        # The row is the lock between two replicas that both believe they lead.
        query = select(engine_readings).where(engine_readings.c.machine == machine).with_for_update()
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        counters = EngineCounters(**{name: getattr(row, name) for name in _COUNTERS})
        return EngineReading(machine=machine, generation=row.generation, at=row.at, counters=counters)

    async def _insert_events(self, connection: AsyncConnection, events: Iterable[tuple[str, FleetEvent]]) -> None:
        rows = [
            {"id": key, "machine": e.machine, "at": e.at, "kind": e.kind, "amount": e.amount, "since": e.since}
            for key, e in sorted(events, key=lambda item: item[0])
        ]
        await connection.execute(self._insert(engine_notes).on_conflict_do_nothing(), rows)

    async def _put(self, connection: AsyncConnection, table: Any, row: dict[str, Any]) -> None:
        insert = self._insert(table)
        keys = [column.name for column in table.primary_key.columns]
        rest = {name: insert.excluded[name] for name in row if name not in keys}
        await connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=rest), row)


async def _started_at(connection: AsyncConnection, reading: EngineReading) -> float | None:
    n = engine_notes.c
    query = select(func.max(n.at)).where(
        n.machine == reading.machine, n.kind == FleetEventKind.START, n.at <= reading.at
    )
    started_at: float | None = (await connection.execute(query)).scalar_one()
    return started_at


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


def _reset(reading: EngineReading, increase: CounterIncrease) -> tuple[str, FleetEvent]:
    event = FleetEvent(machine=reading.machine, at=reading.at, kind=FleetEventKind.RESET, since=increase.since)
    return f"reset/{reading.machine}/{reading.at!r}", event
