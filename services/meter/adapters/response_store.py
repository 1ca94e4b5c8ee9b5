"""The counts of responses: of each source by hour for 60 days, over all sources by day for good."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.tables import response_days, responses
from services.meter.core.response_sums import KEEP_HOURS_S, Group, ResponseSpan
from shared.database import dialect_insert, read_transaction
from shared.errors import Rejected
from shared.messages.responses import HourResponses
from shared.units import DAY_S

HOURS = 24
MAX_GROUPS = 100_000
"""Groups of one answer, which has to fit a message anyway."""


class SqlResponseStore:
    """The port `ResponseStore` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def record(self, messages: Sequence[HourResponses]) -> None:
        """Raise the counts to those of the messages. A lower count is of an earlier moment."""
        upsert = self._insert(responses)
        higher = upsert.excluded.responses
        upsert = upsert.on_conflict_do_update(
            index_elements=["hour", "source", "model", "status", "code"],
            set_={"responses": higher},
            where=higher > responses.c.responses,
        )
        rows = [
            {
                "hour": message.hour,
                "day": message.hour // HOURS,
                "source": message.source,
                "model": count.model,
                "status": count.status,
                "code": count.code,
                "responses": count.responses,
            }
            for message in messages
            for count in message.counts
        ]
        if rows:
            rows.sort(key=lambda row: tuple(row.values()))  # every replica locks them in this order
            async with self._engine.begin() as connection:
                await connection.execute(upsert, rows)

    async def fold(self, now: float) -> None:
        """Replace the hours of days that are old by the day's sums."""
        c = responses.c
        before = int((now - KEEP_HOURS_S) // DAY_S)
        async with self._engine.begin() as connection:
            old = await connection.execute(
                delete(responses).where(c.day < before).returning(c.day, c.model, c.status, c.code, c.responses)
            )
            sums: Counter[tuple[int, str, int, str]] = Counter()
            for row in old:
                sums[row.day, row.model, row.status, row.code] += row.responses
            if sums:
                await self._add_days(connection, sums)

    async def read(self, span: ResponseSpan) -> Counter[Group]:
        """Return the responses by the requested dimensions, status and code; `Rejected` if there are too many."""
        groups: Counter[Group] = Counter()
        async with read_transaction(self._engine) as connection:
            for table, hour in ((responses, responses.c.hour), (response_days, response_days.c.day * HOURS)):
                c = table.c
                by = [hour if dimension == "hour" else c[dimension] for dimension in span.by]
                query = select(*by, c.status, c.code, func.sum(c.responses))
                query = query.where(c.day >= span.first, c.day < span.end).group_by(*by, c.status, c.code)
                for *values, status, code, number in await connection.execute(query.limit(MAX_GROUPS + 1)):
                    groups[tuple(values), status, code] += int(number)
        if len(groups) > MAX_GROUPS:
            raise Rejected("by: too many rows: ask for fewer dimensions, or fewer days")
        return groups

    async def _add_days(self, connection: AsyncConnection, sums: Counter[tuple[int, str, int, str]]) -> None:
        c, upsert = response_days.c, self._insert(response_days)
        upsert = upsert.on_conflict_do_update(
            index_elements=["day", "model", "status", "code"],
            set_={"responses": c.responses + upsert.excluded.responses},
        )
        names = ("day", "model", "status", "code")
        rows = [{**dict(zip(names, kind, strict=True)), "responses": n} for kind, n in sorted(sums.items())]
        await connection.execute(upsert, rows)
