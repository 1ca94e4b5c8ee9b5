"""The machines' transitions from the fleet's journal. The leading replica is the only writer."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters import tables
from services.billing.ports import Unstorable
from shared.database import describe, dialect_insert, read_transaction
from shared.messages.waker import Transition
from shared.units import to_millis

UNSTORABLE = (ValueError, OverflowError, DataError)
"""What a driver or the database raises for a value that no column holds."""


class SqlTransitionStore:
    """The machines' transitions in the database. Raises what `DATABASE_ERRORS` lists while it is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def newest(self) -> float | None:
        """Return the time of the newest transition in Unix seconds, or None if there is none."""
        async with read_transaction(self._engine) as connection:
            at = (await connection.execute(select(func.max(tables.transitions.c.at)))).scalar_one()
        return None if at is None else at / 1000.0

    async def record(self, transitions: Sequence[Transition]) -> None:
        """Add those that are new, all or none of them.

        Raises:
            Unstorable: no column holds a value of one of them.
        """
        if not transitions:
            return
        insertion = dialect_insert(self._engine)(tables.transitions).on_conflict_do_nothing()
        try:
            values = [_values(transition) for transition in transitions]
            async with self._engine.begin() as connection:
                await connection.execute(insertion, values)
        except UNSTORABLE as error:
            raise Unstorable(describe(error)) from error


def _values(transition: Transition) -> dict[str, object]:
    return {
        "machine": transition.machine,
        "at": to_millis(transition.at),
        "to_state": transition.to_state,
        "from_state": transition.from_state,
        "tier": transition.tier,
        "reason": transition.reason,
        "wake_id": transition.wake_id,
        "key_id": transition.key_id,
    }
