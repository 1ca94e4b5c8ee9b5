"""Whether the site's database answers, as its readiness shows it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database import DATABASE_ERRORS, describe, read_transaction

EVERY_S = 5.0


class DatabaseCheck:
    """Asks the database for nothing, again and again. `fault` is why it could not be used the last time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._stopped = asyncio.Event()
        self.fault: str | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check in the background. A check under way ends by itself: cancelled, it would leave a connection behind."""
        task = asyncio.create_task(self._run(), name="check of the database")
        try:
            yield
        finally:
            self._stopped.set()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while not self._stopped.is_set():
            await self._check()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), EVERY_S)

    async def _check(self) -> None:
        try:
            async with read_transaction(self._engine) as connection:
                await connection.execute(text("SELECT 1"))
        except DATABASE_ERRORS as error:
            self.fault = f"the database cannot be used: {describe(error)}"
        else:
            self.fault = None
