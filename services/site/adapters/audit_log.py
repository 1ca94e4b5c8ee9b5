"""What people did on the site, one row for each thing, in the site's database."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.site.adapters.people_store import text_of
from services.site.adapters.tables import site_audit
from shared.database import read_transaction
from shared.ids import uuid7

MOST_ROWS = 200
"""On one page."""


@dataclass(frozen=True, kw_only=True)
class Deed:
    """One thing that somebody did."""

    id: str
    at: float
    person: str
    login: str
    """As it was then."""
    action: str
    """Such as `key_created`."""
    object: str
    """Such as a key's id; empty if there is none."""
    detail: str
    """The reason that was typed in, or what changed."""
    network: str


class SqlAuditLog:
    """Rows are only added; `Pruner` removes those that are too old."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def record(
        self, now: float, *, person: str, login: str, action: str, network: str, target: str = "", detail: str = ""
    ) -> None:
        """Add a row. It is written before the person reads that the thing was done."""
        row = {
            "id": uuid7(now),
            "at": now,
            "person": person,
            "login": text_of(login),
            "action": action,
            "object": text_of(target),
            "detail": text_of(detail),
            "network": network,
        }
        async with self._engine.begin() as connection:
            await connection.execute(site_audit.insert().values(**row))

    async def list(self, *, person: str | None = None, before: str | None = None) -> Sequence[Deed]:
        """Return up to `MOST_ROWS` rows, newest first: of a person, and before the row of this id."""
        query = select(site_audit).order_by(site_audit.c.id.desc()).limit(MOST_ROWS)
        if person is not None:
            query = query.where(site_audit.c.person == person)
        if before is not None:
            query = query.where(site_audit.c.id < before)
        async with read_transaction(self._engine) as connection:
            return [Deed(**row._asdict()) for row in await connection.execute(query)]
