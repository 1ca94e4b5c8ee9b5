"""Requests to machines: what may be served, who goes next, and whom a closed budget gate sends away."""

import asyncio
from collections.abc import Callable

from services.gateway.adapters.activity import ActivityReporter
from services.gateway.core import errors
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.wake_estimate import WakeEstimate, estimate_wake
from shared.budget import GateView
from shared.bus.view import View
from shared.config import Config, Model
from shared.messages.waker import MachineRecord

DISPATCH_SLICE = 64
"""Requests in one go: ten thousand forwarded at once would keep everybody else waiting for a third of a second."""


class Dispatcher:
    """The scheduler, driven by changes of the fleet, the gates and the requests. `now` is Unix seconds."""

    def __init__(
        self,
        scheduler: RequestScheduler,
        fleet: View[MachineRecord],
        gates: GateView,
        activity: ActivityReporter,
        *,
        config: Config,
        now: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._fleet = fleet
        self._gates = gates
        self._activity = activity
        self._config = config
        self._now = now
        self._started_at = now()
        self._is_dispatching = False

    def check_gate(self, model: str) -> None:
        """Raise `ApiError` (503) if the model's budget gate is closed."""
        if reason := self._gates.model(model, self._now()):
            raise self._gate_closed(reason)

    def estimate(self, model: Model) -> WakeEstimate:
        """Return what is known now of the model's machines in open tiers."""
        now = self._now()
        tiers = [tier for tier in model.lineup if not self._gates.tier(tier, now)] or model.lineup
        machines = [machine for machine in self._config.machines_of(model) if machine.tier in tiers]
        records = [(r, self._fleet.age(m.id)) for m in machines if (r := self._fleet.get(m.id)) is not None]
        return estimate_wake(tiers[0], records, now)

    def on_fleet_change(self, machine: str) -> None:
        """A machine's record changed: requests that waited for it go, and a drain is acknowledged."""
        record = self._fleet.get(machine)
        if record is None or record.state != "ready":
            self._scheduler.breaker.reset(machine)
        self.dispatch()
        self._activity.changed()

    def release(self, machine: str) -> None:
        """A request has ended on the machine."""
        last = self._scheduler.release(machine, self._now())
        self.dispatch()
        if last:
            self._activity.changed()

    def dispatch(self) -> None:
        """Give waiting requests what places there are: a slice now, and the rest in the next iterations of the loop."""
        if not self._scheduler.total_waiting or self._is_dispatching:
            return
        if self._scheduler.dispatch(self._now(), DISPATCH_SLICE):
            self._is_dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch_more)

    def check_gates(self) -> None:
        """After a change of the gates, and every second since they grow old: evict requests behind closed gates."""
        now = self._now()
        for model in self._scheduler.waiting_models():
            if reason := self._gates.model(model, now):
                for ticket in self._scheduler.evict(model, DISPATCH_SLICE):
                    ticket.on_refuse(self._gate_closed(reason))
                if self._scheduler.has_waiting(model):
                    asyncio.get_running_loop().call_soon(self.check_gates)
                    return
        self.dispatch()

    def _dispatch_more(self) -> None:
        self._is_dispatching = False
        self.dispatch()

    def _gate_closed(self, reason: str) -> errors.ApiError:
        """The error for a gate's reason: to be retried while this process is younger than an observation may become."""
        age = self._now() - self._started_at
        return errors.budget_closed(reason, is_starting=age <= self._config.billing.observation_timeout)
