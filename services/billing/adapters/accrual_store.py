"""Readings of a provider's running bill: the rise since the last reading is spread over its UTC hours."""

from collections.abc import Mapping

from sqlalchemy import and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.tables import accruals, meters, transitions
from services.billing.core.allocation.accrual import Accrual, BillReading, accrue, is_stale
from services.billing.core.allocation.machine_time import MachineTime, StateChange, build_intervals
from services.billing.core.money import to_units, to_usd
from services.billing.core.utc_time import Window
from shared.database import read_transaction
from shared.units import HOUR_MS


class SqlAccrualStore:
    """The readings of running bills in the database. Raises what `DATABASE_ERRORS` lists while it is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def last_readings(self) -> dict[str, BillReading]:
        """Return the last reading of each resource."""
        async with read_transaction(self._engine) as connection:
            rows = await connection.execute(select(meters))
            return {row.resource: BillReading(to_units(row.cumulative), row.at) for row in rows}

    async def add_readings(
        self, readings: Mapping[str, BillReading], machine_of: Mapping[str, str], basis: str
    ) -> None:
        """Add all readings or none, even beside another writer. A reading older than the last one changes nothing."""
        async with self._engine.begin() as connection:
            for resource, now in sorted(readings.items()):  # one order, so that two writers never wait for each other
                await _add(connection, resource, now, machine_of[resource], basis)


async def accrued_in(connection: AsyncConnection, window: Window) -> list[Accrual]:
    """Return the accruals of the hours that begin in the window, by machine and hour."""
    query = (
        select(accruals)
        .where(accruals.c.hour >= window.start, accruals.c.hour < window.end)
        .order_by(accruals.c.machine, accruals.c.hour)
    )
    return [
        Accrual(row.machine, row.hour, to_units(row.amount), row.since, row.through)
        for row in await connection.execute(query)
    ]


async def _add(connection: AsyncConnection, resource: str, now: BillReading, machine: str, basis: str) -> None:
    """Add a reading. A resource's first one is only the start: the time before it is unknown."""
    values = {"cumulative": to_usd(now.cumulative), "at": now.at}
    known = select(meters).where(meters.c.resource == resource).with_for_update()
    row = (await connection.execute(known)).one_or_none()
    if row is None:
        await connection.execute(insert(meters).values(resource=resource, **values))
        return
    before = BillReading(to_units(row.cumulative), row.at)
    if is_stale(before, now):
        return
    await connection.execute(update(meters).where(meters.c.resource == resource).values(**values))
    time = await _time(connection, machine, Window(before.at, now.at))
    for part in accrue(machine, before, now, time):
        await _add_part(connection, part, basis)


async def _add_part(connection: AsyncConnection, part: Accrual, basis: str) -> None:
    here = and_(accruals.c.machine == part.machine, accruals.c.hour == part.hour)
    row = (await connection.execute(select(accruals).where(here))).one_or_none()
    if row is None:
        values = {"amount": to_usd(part.amount), "since": part.since, "through": part.through, "basis": basis}
        await connection.execute(insert(accruals).values(machine=part.machine, hour=part.hour, **values))
        return
    values = {
        "amount": to_usd(to_units(row.amount) + part.amount),
        "since": min(row.since, part.since),
        "through": max(row.through, part.through),
        "basis": basis,
    }
    await connection.execute(update(accruals).where(here).values(**values))


async def _time(connection: AsyncConnection, machine: str, gap: Window) -> MachineTime:
    """Return what the machine did in the gap. A gap within one hour needs no spreading, so it is not looked up."""
    if gap.start // HOUR_MS == (gap.end - 1) // HOUR_MS:
        return MachineTime()
    query = (
        select(transitions.c.at, transitions.c.to_state)
        .where(transitions.c.machine == machine, transitions.c.at < gap.end)
        .order_by(transitions.c.at, transitions.c.id)
    )
    changes = [StateChange(row.at, row.to_state) for row in await connection.execute(query)]
    return MachineTime(build_intervals(changes, gap.end))
