"""The status page: what each tier does at the moment, as of when, and what is not known."""

import math
from collections.abc import Callable, Mapping

from services.site.core.fleet_status import FleetStatus, Knowledge, fleet_status
from shared.budget_gates import GateView
from shared.bus import subjects
from shared.bus.ports import Bus, Handle
from shared.bus.topology import BUDGET, FLEET, LEASES
from shared.bus.view import View
from shared.config.sections import Config
from shared.errors import BusError
from shared.fleet_records import record_check
from shared.fleet_watcher import FleetWatcher
from shared.messages.budget import BudgetGate


class FleetViews:
    """The fleet and its gates, kept current for every page that shows them."""

    def __init__(self, config: Config, bus: Bus, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.watcher = FleetWatcher(check=record_check(config), now=now, monotonic=monotonic)
        self.budget = View(BUDGET, BudgetGate)
        self.gates = GateView(config, self.budget, self.budget.age)
        self._bus = bus
        self._subscription: Handle | None = None

    async def start(self) -> None:
        self._subscription = await self._bus.subscribe(subjects.ACTIVITIES, self.watcher.on_activity)
        await self.watcher.records.start(self._bus)
        await self.budget.start(self._bus)

    async def stop(self) -> None:
        for handle in (self._subscription, self.watcher.records, self.budget):
            if handle is not None:
                await handle.stop()


class StatusPage:
    """Loads the status page."""

    def __init__(self, config: Config, bus: Bus, views: FleetViews, now: Callable[[], float]) -> None:
        self._tiers = [tier.name for tier in config.tier]
        self._bus = bus
        self._views = views
        self._now = now

    async def load(self, _variables: Mapping[str, str]) -> FleetStatus:
        now = self._now()
        records = self._views.watcher.records
        return fleet_status(
            self._tiers,
            records,
            ages={machine: records.age(machine) for machine in records},
            closed={tier: self._views.gates.tier_closed_reason(tier, now) for tier in self._tiers},
            knowledge=await self._knowledge(),
            now=now,
        )

    async def _knowledge(self) -> Knowledge:
        ages = self._bus.view_ages()
        return Knowledge(
            view_age_s=ages.get(FLEET.name, math.inf),
            gates_age_s=ages.get(BUDGET.name, math.inf),
            has_leader=await self._has_leader(),
            gateways=len(self._views.watcher.activities()),
        )

    async def _has_leader(self) -> bool:
        if not self._bus.connected:
            return False
        try:
            return await self._bus.get(LEASES, subjects.WAKER_LEASE) is not None
        except BusError:
            return False
