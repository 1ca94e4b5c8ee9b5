"""Marks of days: small texts that change whenever something in the books may change the day's report."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.tables import accruals, payables, snapshots, transitions
from services.billing.core.days import HOUR, day_window
from shared.database import reading


class Marks:
    """Raises what `shared.database.AWAY` lists when the database does not do its part."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def of(self, days: Sequence[str]) -> dict[str, str]:
        """Each day's mark. What counts of the bills is in all of them: whatever was billed may fall on any day."""
        s, t, a = snapshots.c, transitions.c, accruals.c
        bills = select(func.max(s.id), func.count(), func.sum(s.id)).where(s.active)
        async with reading(self._engine) as connection:
            every = [*(await connection.execute(bills)).one(), await connection.scalar(select(func.max(payables.c.id)))]
            found: dict[str, str] = {}
            for day in days:
                window = day_window(day)
                # What a state became may decide what it was: a wake that went on past midnight.
                journal = select(func.max(t.id)).where(t.at < window.end + HOUR)
                within = (a.hour >= window.start) & (a.hour < window.end)
                running = select(func.count(), func.sum(a.through)).where(within)
                told = [await connection.scalar(journal), *(await connection.execute(running)).one()]
                found[day] = "/".join(map(str, (*every, *told)))
            return found
