"""Marks of days: small texts that change whenever something in the books may change the day's report."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.tables import accruals, payables, snapshots, transitions
from services.billing.core.days import DAY, HOUR, day_window
from shared.database import reading


class Marks:
    """Raises what `shared.database.AWAY` lists when the database does not do its part."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def of(self, days: Sequence[str]) -> dict[str, str]:
        """Each day's mark. What counts of the bills is in all of them: whatever was billed may fall on any day."""
        numbers = {day: day_window(day).start // DAY for day in days}
        s = snapshots.c
        bills = select(func.max(s.id), func.count(), func.sum(s.id)).where(s.active)
        async with reading(self._engine) as connection:
            every = [*(await connection.execute(bills)).one(), await connection.scalar(select(func.max(payables.c.id)))]
            told = await _told(connection)
            running = await _running(connection, min(numbers.values()), max(numbers.values()))
        found = {}
        for day, number in numbers.items():
            journal = max((newest for at, newest in told.items() if at <= number), default=None)
            found[day] = "/".join(map(str, (*every, journal, *running.get(number, ()))))
        return found


async def _told(connection: AsyncConnection) -> dict[int, int]:
    """Day by number to the newest transition told of it, by id.

    The first hour counts as the day before too: what a state became may decide what it was, as with a wake.
    """
    t = transitions.c
    day = ((t.at - HOUR) // DAY).label("number")
    wanted = select(day, func.max(t.id).label("newest")).group_by("number")
    return {row.number: row.newest for row in await connection.execute(wanted)}


async def _running(connection: AsyncConnection, first: int, last: int) -> dict[int, tuple[int, ...]]:
    """Day by number to how many hours have a running bill, and how far those go."""
    a = accruals.c
    day = (a.hour // DAY).label("number")
    wanted = select(day, func.count(), func.sum(a.through)).where(a.hour >= first * DAY, a.hour < (last + 1) * DAY)
    return {row[0]: (row[1], int(row[2])) for row in await connection.execute(wanted.group_by("number"))}
