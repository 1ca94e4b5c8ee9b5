"""The fleet and its gates, kept current for every page that shows them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from shared.budget_gates import GateView
from shared.bus.ports import Bus
from shared.bus.subjects import ACTIVITIES
from shared.bus.topology import BUDGET
from shared.bus.view import View
from shared.config.sections import Config
from shared.fleet_records import record_check
from shared.fleet_watcher import FleetWatcher
from shared.messages.budget import BudgetGate


class FleetViews:
    """Views of the buckets `fleet` and `budget`, and what gateways report."""

    def __init__(self, config: Config, bus: Bus, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.watcher = FleetWatcher(check=record_check(config), now=now, monotonic=monotonic)
        self.budget = View(BUDGET, BudgetGate)
        self.gates = GateView(config, self.budget, self.budget.age)
        self._bus = bus

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        subscription = await self._bus.subscribe(ACTIVITIES, self.watcher.on_activity)
        try:
            await self.watcher.records.start(self._bus)
            await self.budget.start(self._bus)
            yield
        finally:
            await subscription.stop()
            await self.watcher.records.stop()
            await self.budget.stop()
