"""Wakes in the site's database. Facts are added once, and their wakes are made anew in the same transaction."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.site.adapters.wake_tables import wake_facts, wakes
from services.site.core.wakes import Wake, WakeFact, fold
from shared.database import dialect_insert, read_transaction
from shared.units import Millis

EVER = Millis(-(2**62))


class SqlWakeStore:
    """Raises what `DATABASE_ERRORS` lists while the database is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def record(self, facts: Iterable[WakeFact]) -> None:
        """Add the facts that are new, and make their wakes from all of their facts."""
        added = sorted(facts, key=lambda fact: fact.id)  # every replica locks in this order
        if not added:
            return
        ids = sorted({fact.wake_id for fact in added})
        async with self._engine.begin() as connection:
            await self._lock(connection, ids)
            await connection.execute(
                self._insert(wake_facts).on_conflict_do_nothing(), [asdict(fact) for fact in added]
            )
            folded = [asdict(fold(wake_id, its)) for wake_id, its in (await _facts(connection, ids)).items()]
            changes: dict[str, Any] = {name: bindparam(f"its_{name}") for name in wakes.c.keys()}  # noqa: SIM118 - not a dict
            await connection.execute(
                update(wakes).where(wakes.c.wake_id == bindparam("its_wake_id")).values(changes),
                [{f"its_{name}": value for name, value in wake.items()} for wake in folded],
            )

    async def _lock(self, connection: AsyncConnection, ids: Sequence[str]) -> None:
        """Create the wakes' rows and lock them: a replica that adds facts of the same wake then sees ours."""
        empty = [asdict(fold_nothing(wake_id)) for wake_id in ids]
        await connection.execute(self._insert(wakes).on_conflict_do_nothing(), empty)
        locking = select(wakes.c.wake_id).where(wakes.c.wake_id.in_(ids)).order_by(wakes.c.wake_id)
        await connection.execute(locking.with_for_update())

    async def newest(self) -> Millis | None:
        """Return the time of the newest fact, None: there is none."""
        async with read_transaction(self._engine) as connection:
            at: Millis | None = (await connection.execute(select(func.max(wake_facts.c.at)))).scalar_one()
        return at

    async def first(self) -> Millis | None:
        """Return when the first wake began, None: there is none."""
        async with read_transaction(self._engine) as connection:
            at: Millis | None = (await connection.execute(select(func.min(wakes.c.began_at)))).scalar_one()
        return at

    async def wakes(self, since: Millis = EVER, until: Millis | None = None) -> list[Wake]:
        """Return the wakes that began since a moment and before another, oldest first."""
        began = wakes.c.began_at
        query = select(wakes).where(began >= since).order_by(began, wakes.c.wake_id)
        if until is not None:
            query = query.where(began < until)
        async with read_transaction(self._engine) as connection:
            return [Wake(**row) for row in (await connection.execute(query)).mappings()]

    async def caused_by(self, key_ids: Sequence[str], since: Millis, most: int) -> list[Wake]:
        """Return the newest wakes since a moment that requests with these keys caused, the newest first."""
        c = wakes.c
        query = select(wakes).where(c.key_id.in_(key_ids), c.began_at >= since)
        query = query.order_by(c.began_at.desc(), c.wake_id).limit(most)
        async with read_transaction(self._engine) as connection:
            return [Wake(**row) for row in (await connection.execute(query)).mappings()]

    async def phases(self, since: Millis) -> list[tuple[str, str, float]]:
        """Return tier, phase and seconds of each phase that was passed since a moment."""
        c = wake_facts.c
        query = select(c.tier, c.phase, c.seconds).where(c.at >= since, c.phase != "", c.done)
        async with read_transaction(self._engine) as connection:
            return [(row.tier, row.phase, row.seconds) for row in await connection.execute(query)]


def fold_nothing(wake_id: str) -> Wake:
    """Return the row of a wake whose facts follow."""
    return Wake(
        wake_id=wake_id,
        tier="",
        machine="",
        key_id=None,
        began_at=None,
        ended_at=None,
        outcome="under_way",
        was_asleep=False,
        failed_phase="",
        attempts=0,
    )


async def _facts(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, list[WakeFact]]:
    query = select(wake_facts).where(wake_facts.c.wake_id.in_(ids))
    facts: defaultdict[str, list[WakeFact]] = defaultdict(list)
    for row in (await connection.execute(query)).mappings():
        facts[row["wake_id"]].append(WakeFact(**row))
    return dict(facts)
