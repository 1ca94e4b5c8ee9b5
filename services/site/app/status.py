"""The status page: what each tier does at the moment, as of when, and what is not known."""

import math
from collections.abc import Callable, Mapping

from services.site.app.fleet_views import FleetViews
from services.site.core.fleet_status import FleetStatus, Knowledge, fleet_status
from shared.bus import subjects
from shared.bus.ports import Bus
from shared.bus.topology import BUDGET, FLEET, LEASES
from shared.config.sections import Config
from shared.errors import BusError


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
            gates_age_s=ages.get(BUDGET.name, math.inf) if self._views.gates.limited_scopes else 0.0,
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
