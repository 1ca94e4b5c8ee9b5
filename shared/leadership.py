"""What one of several replicas does: works that are repeated for as long as it holds the lease."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from shared.bus.lease import Lease
from shared.periodic import PeriodicTask, PeriodicTasks
from shared.tasks import cancel_and_wait

LOOK_SECONDS = 0.25
"""How soon a replica that got the lease begins to work, and one that lost it stops."""
BEGINNING = "taking up the work"

Begin = Callable[[AsyncExitStack], Awaitable[Sequence[PeriodicTask]]]


class Leadership:
    """`begin` takes up a term: it opens on the stack what the term needs, and returns the works."""

    def __init__(self, begin: Begin, works: PeriodicTasks) -> None:
        self._begin = begin
        self._works = works
        self._failures = 0

    async def run(self, lease: Lease) -> None:
        """Term after term, for ever. Only the loss of the lease ends a term that has begun."""
        while True:
            if lease.held:
                try:
                    await self._term(lease)
                except Exception as error:  # noqa: BLE001 - the next term may begin
                    self._failures += 1
                    await asyncio.sleep(self._works.record_failure(BEGINNING, error, self._failures))
            await asyncio.sleep(LOOK_SECONDS)

    async def _term(self, lease: Lease) -> None:
        """Until the lease is lost."""
        async with AsyncExitStack() as stack:
            works = await self._begin(stack)
            self._failures = 0
            self._works.clear([BEGINNING])
            tasks = [asyncio.create_task(self._works.repeat(work), name=work.name) for work in works]
            try:
                while lease.held and not any(task.done() for task in tasks):  # noqa: ASYNC110 - a lease ends by the clock
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                # Not a task group's business: it cancels once, and one cancellation may be lost.
                await cancel_and_wait(tasks)
                self._works.clear(work.name for work in works)
