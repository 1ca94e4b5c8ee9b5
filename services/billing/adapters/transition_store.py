"""The fleet's journal in the books: the machines' transitions. One writer: the leading billing process."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.tables import transitions
from shared.database import read_transaction
from shared.messages.waker import Transition
from shared.units import to_millis


class TransitionStore:
    """Raises what `shared.database.AWAY` lists when the database does not do its part."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def newest(self) -> float | None:
        """When the newest transition happened, Unix seconds; None: there is none."""
        async with read_transaction(self._engine) as connection:
            at = (await connection.execute(select(func.max(transitions.c.at)))).scalar_one()
        return None if at is None else at / 1000.0

    async def record(self, told: Sequence[Transition]) -> None:
        """Keep what is new among them."""
        if not told:
            return
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        values = [
            {
                "machine": t.machine,
                "at": to_millis(t.at),
                "to_state": t.to_state,
                "from_state": t.from_state,
                "tier": t.tier,
                "reason": t.reason,
                "wake_id": t.wake_id,
                "key_id": t.key_id,
            }
            for t in told
        ]
        async with self._engine.begin() as connection:
            await connection.execute(dialect.insert(transitions).on_conflict_do_nothing(), values)
