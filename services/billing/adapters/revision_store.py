"""All revisions of the reports, each with its inputs. Append-only."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import func, insert, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.tables import revisions
from services.billing.core.revisions.revision import RevisionInputs, StoredRevision
from services.billing.core.revisions.trail import KeptRevision
from shared.database import read_transaction
from shared.messages.billing import DayReport
from shared.messages.codec import decode, encode


class SqlRevisionStore:
    """The reports in the database. Raises what `DATABASE_ERRORS` lists while it is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def newest(self, day: str) -> StoredRevision | None:
        query = select(revisions).where(revisions.c.day == day).order_by(revisions.c.revision.desc()).limit(1)
        async with read_transaction(self._engine) as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        figures = decode(row.report, dict[str, Any])
        return StoredRevision(decode(row.report, DayReport), decode(row.inputs, RevisionInputs), figures)

    async def newest_revisions(self, day: str, most: int) -> list[KeptRevision]:
        """Return the day's newest revisions, the newest first."""
        query = select(revisions).where(revisions.c.day == day).order_by(revisions.c.revision.desc()).limit(most)
        async with read_transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        return [KeptRevision(decode(r.report, DayReport), decode(r.inputs, RevisionInputs), r.made_at) for r in rows]

    async def newest_report(self, day: str) -> DayReport | None:
        newest = await self.newest(day)
        return None if newest is None else newest.report

    async def newest_reports(self, days: Collection[str]) -> dict[str, DayReport]:
        """Return the newest report of each day that has one."""
        last = select(revisions.c.day, func.max(revisions.c.revision)).where(revisions.c.day.in_(days))
        chosen = tuple_(revisions.c.day, revisions.c.revision).in_(last.group_by(revisions.c.day))
        async with read_transaction(self._engine) as connection:
            rows = (await connection.execute(select(revisions.c.day, revisions.c.report).where(chosen))).all()
        return {row.day: decode(row.report, DayReport) for row in rows}

    async def save(self, report: DayReport, inputs: RevisionInputs, now: float) -> None:
        values = {
            "day": report.day,
            "revision": report.revision,
            "report": encode(report).decode(),
            "inputs": encode(inputs).decode(),
            "digest": inputs.digest,
            "made_at": now,
        }
        async with self._engine.begin() as connection:
            await connection.execute(insert(revisions), values)
