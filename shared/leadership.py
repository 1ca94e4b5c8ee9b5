"""Runs periodic tasks on one of several replicas, for as long as it holds the lease."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from shared.bus.lease import Lease
from shared.periodic import PeriodicTask, PeriodicTasks
from shared.tasks import cancel_and_wait

POLL_SECONDS = 0.25
"""How soon a replica begins after it took the lease, and stops after it lost it."""
BEGINNING = "taking up the work"

BeginTerm = Callable[[AsyncExitStack], Awaitable[Sequence[PeriodicTask]]]


class Leadership:
    """Leads term after term. `begin` opens what a term needs on the stack, and returns the term's tasks."""

    def __init__(self, begin: BeginTerm, tasks: PeriodicTasks) -> None:
        self._begin = begin
        self._tasks = tasks
        self._failures = 0

    async def run(self, lease: Lease) -> None:
        """Lead whenever the lease is held, for ever. Only its loss ends a term that has begun."""
        while True:
            if lease.held:
                try:
                    await self._lead(lease)
                except Exception as error:  # noqa: BLE001 - the next term may begin
                    self._failures += 1
                    await asyncio.sleep(self._tasks.record_failure(BEGINNING, error, self._failures))
            await asyncio.sleep(POLL_SECONDS)

    async def _lead(self, lease: Lease) -> None:
        """Lead until the lease is lost."""
        async with AsyncExitStack() as stack:
            tasks = await self._begin(stack)
            self._failures = 0
            self._tasks.clear([BEGINNING])
            running = [asyncio.create_task(self._tasks.repeat(task), name=task.name) for task in tasks]
            try:
                while lease.held and not any(running_task.done() for running_task in running):  # noqa: ASYNC110 - a lease ends by the clock
                    await asyncio.sleep(POLL_SECONDS)
            finally:
                # A task group would cancel only once, and one cancellation may be lost.
                await cancel_and_wait(running)
                self._tasks.clear(task.name for task in tasks)
