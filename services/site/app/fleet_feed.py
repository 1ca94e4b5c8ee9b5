"""The fleet, live: one fragment rendered for all who watch, of which each gets the latest and none a queue."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.site.core.fleet_board import FleetBoard, fleet_board
from shared.bus.ports import Bus
from shared.bus.topology import FLEET
from shared.config.sections import Config
from shared.fleet_rows import sum_use
from shared.fleet_watcher import FleetWatcher
from shared.tasks import cancel_and_wait

MOST_STREAMS = 100
"""In this process. Each holds a connection."""
MOST_PER_SESSION = 4
"""A browser has six connections to a host; a page needs one."""
LEAST_PAUSE_S = 0.5
"""Between two renderings: gateways report every 2 s and at each change."""
AS_OF_S = 15.0
"""How old the moment on an unchanged board becomes."""


class TooManyStreams(Exception):
    """No further stream is served now."""


class FleetFeed:
    """Renders the board when it has changed, while anybody watches."""

    def __init__(
        self,
        config: Config,
        bus: Bus,
        watcher: FleetWatcher,
        render: Callable[[FleetBoard], str],
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._watcher = watcher
        self._render = render
        self._now = now
        self._static = frozenset(tier.name for tier in config.tier if tier.provider == "static")
        self._sessions: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._number = 0
        self._fragment = ""
        self.closed = False

    def board(self) -> FleetBoard:
        activities = self._watcher.activities()
        return fleet_board(
            list(self._watcher.records.values()),
            sum_use(activities),
            static=self._static,
            gateways=len(activities),
            view_age_s=self._bus.view_ages().get(FLEET.name, math.inf),
            now=self._now(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the fleet."""
        task = asyncio.create_task(self._follow(), name="fleet feed")
        try:
            yield
        finally:
            self.close()
            await cancel_and_wait([task])

    def close(self) -> None:
        """End all streams, and admit no further one."""
        self.closed = True
        self._wake_all()

    async def _follow(self) -> None:
        while True:
            await self._watcher.wait_for_change(AS_OF_S)
            if self._sessions:
                self._publish()
            await asyncio.sleep(LEAST_PAUSE_S)

    @contextmanager
    def stream(self, session: str) -> Iterator[None]:
        """Count a stream of this session while it is served. Raises `TooManyStreams`."""
        if self.closed or self._sessions.total() >= MOST_STREAMS or self._sessions[session] >= MOST_PER_SESSION:
            raise TooManyStreams
        if not self._sessions:
            self._publish()
        self._sessions[session] += 1
        try:
            yield
        finally:
            self._sessions[session] -= 1
            self._sessions += Counter()  # forgets the sessions without a stream

    async def next(self, seen: int, timeout_s: float) -> tuple[int, str] | None:
        """Return the latest fragment and its number once there is a newer one than `seen`; None: not in time."""
        if self._number <= seen and not self.closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return None if self.closed else (self._number, self._fragment)

    def _publish(self) -> None:
        self._number += 1
        self._fragment = self._render(self.board())
        self._wake_all()

    def _wake_all(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
