"""What one of several replicas does: works that are repeated for as long as it holds the lease."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from shared.bus.lease import Lease
from shared.database import AWAY, told
from shared.errors import BusUnavailable
from shared.tasks import end

log = structlog.get_logger()

RETRY_SECONDS = 1.0
LOOK_SECONDS = 0.25
"""How soon a replica that got the lease begins to work, and one that lost it stops."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """`do` once, then `pause`, and again; what the bus or the database refuses is tried again after `RETRY_SECONDS`."""

    name: str
    do: Callable[[], Awaitable[None]]
    pause: Callable[[], Awaitable[None]]
    first: float = 0.0
    """Seconds before the first time."""


def every(seconds: float) -> Callable[[], Awaitable[None]]:
    """A pause of so long."""
    return lambda: asyncio.sleep(seconds)


Begin = Callable[[AsyncExitStack], Awaitable[Sequence[Work]]]


class Leadership:
    """`begin` takes up a term: it opens on the stack what the term needs, and tells the works."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._faults: dict[str, str] = {}

    @property
    def fault(self) -> str | None:
        """A work that was refused when it was last tried, and why."""
        return next(iter(self._faults.values()), None)

    async def run(self, lease: Lease) -> None:
        """Term after term, for ever. What a work raises beyond what it may be refused is raised here."""
        while True:
            if lease.held:
                try:
                    await self._term(lease)
                except BusUnavailable as error:
                    log.warning("cannot take up the work, trying again", reason=str(error))
                    await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def _term(self, lease: Lease) -> None:
        """Until the lease is lost."""
        async with AsyncExitStack() as stack:
            tasks = [asyncio.create_task(self._repeat(work)) for work in await self._begin(stack)]
            try:
                while lease.held and not any(task.done() for task in tasks):  # noqa: ASYNC110 - a lease ends by the clock
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                # Not a task group's business: it cancels once, and one cancellation may be lost.
                await end(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.result()
        self._faults.clear()

    async def _repeat(self, work: Work) -> None:
        await asyncio.sleep(work.first)
        while True:
            try:
                await work.do()
            except (BusUnavailable, *AWAY) as error:
                self._faults[work.name] = f"{work.name}: {told(error)}"
                log.warning("not done, trying again", work=work.name, reason=told(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._faults.pop(work.name, None)
                await work.pause()
