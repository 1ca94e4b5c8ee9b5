"""What every request shares: the books, the views, the ways out. One per process, made by `wiring`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.gateway.adapters.activity import ActivityReporter
from services.gateway.adapters.demand import Demand
from services.gateway.adapters.engines import Engines
from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.usage_sender import UsageSender
from services.gateway.core import errors
from services.gateway.core.hold import Hold
from services.gateway.metrics import Metrics
from shared.bus.subjects import BUDGET_KEY
from shared.bus.view import View
from shared.config import Config
from shared.messages.billing import BudgetGate
from shared.messages.gateway import UsageEvent
from shared.messages.keys import KeyRecord, digest
from shared.messages.waker import MachineRecord

if TYPE_CHECKING:
    from services.gateway.http.exchange import Exchange


@dataclass(kw_only=True)
class Door:
    """Shared by all requests of this process."""

    config: Config
    hold: Hold
    fleet: View[MachineRecord]
    keys: View[KeyRecord]
    budget: View[BudgetGate]
    demand: Demand
    activity: ActivityReporter
    engines: Engines
    outbox: Outbox
    sender: UsageSender
    metrics: Metrics
    now: Callable[[], float]
    leaving: bool = False
    exchanges: "set[Exchange]" = field(default_factory=set)

    def authorize(self, header: str | None) -> KeyRecord:
        """The key of an `Authorization` header, or 401."""
        scheme, _, secret = (header or "").partition(" ")
        record = self.keys.get(digest(secret.strip())) if scheme.lower() == "bearer" and secret else None
        if record is None or not record.usable(self.now()):
            raise errors.invalid_api_key()
        return record

    def admit(self) -> None:
        """Whether anything new may be served at all."""
        if self.leaving:
            raise errors.leaving()
        if fault := self.outbox.fault:
            raise errors.outbox_full(fault)
        if self.config.billing.daily_budget is not None and (reason := self._budget_fault()):
            raise errors.budget_closed(reason)

    def _budget_fault(self) -> str | None:
        gate = self.budget.get(BUDGET_KEY)
        if gate is None or self.now() - gate.observed_at > self.config.billing.observation_timeout:
            return "billing_unobservable"
        return None if gate.open else gate.reason

    def on_fleet_change(self, _machine: str) -> None:
        """A machine's record changed: whoever waited for it goes, and a drain is acknowledged."""
        self.hold.release()
        self.activity.changed()

    def machine_left(self, machine: str) -> None:
        """A request has ended on the machine."""
        self.hold.give_back(machine, self.now())
        self.hold.release()
        if self.hold.in_flight(machine) == 0:
            self.activity.changed()

    def record(self, event: UsageEvent) -> None:
        """One request's usage: on disk when this returns, on its way to the ledger."""
        self.outbox.append(event)
        self.sender.wake()
        self.metrics.requests.labels(event.outcome).inc()

    async def drain(self, grace: float) -> None:
        """Held requests are sent elsewhere at once; running ones have `grace` seconds, then one error event."""
        self.leaving = True
        for exchange in list(self.exchanges):
            exchange.leave()
        running = [exchange.task for exchange in self.exchanges]
        if running:
            _, late = await asyncio.wait(running, timeout=grace)
            for exchange in list(self.exchanges):
                exchange.cut()
            if late:
                await asyncio.wait(late, timeout=1.0)
