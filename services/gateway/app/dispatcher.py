"""Dispatches waiting requests to machines, and evicts them when a budget gate closes."""

import asyncio
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from services.gateway.core import errors
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.wake_estimate import WakeEstimate, estimate_wake
from shared.budget_gates import GateView
from shared.bus.view import View
from shared.config.fleet import Model
from shared.config.sections import Config
from shared.messages.waker import MachineRecord

DISPATCH_SLICE = 64
"""Requests per loop iteration: forwarding ten thousand at once would block all others for a third of a second."""


@dataclass(eq=False)
class Dispatcher:
    """Drives the scheduler when the fleet, the gates or the requests change. `now` is Unix seconds."""

    scheduler: RequestScheduler
    fleet: View[MachineRecord]
    gates: GateView
    _: KW_ONLY
    config: Config
    now: Callable[[], float]
    on_activity_change: Callable[[], None]
    """Called when a machine's record changes, or when its last request has ended."""
    _is_dispatching: bool = False

    def __post_init__(self) -> None:
        self._started_at = self.now()

    def update(self, config: Config, gates: GateView) -> None:
        """Follow a new configuration: refuse requests that wait for a removed model, and dispatch the others."""
        self.config, self.gates = config, gates
        for model in self.scheduler.waiting_models():
            if model not in config.models:
                for ticket in self.scheduler.evict(model, self.scheduler.total_waiting):
                    ticket.on_refuse(errors.model_not_found(model))
        self.check_gates()
        self.on_activity_change()

    def check_gate(self, model: str) -> None:
        """Raise `ApiError` (503) if the model's budget gate is closed."""
        if (reason := self.gates.model_closed_reason(model, self.now())) is not None:
            raise self._gate_closed(reason)

    def estimate(self, model: Model) -> WakeEstimate:
        """Return what is known of a wake of the model, from its machines in open tiers."""
        now = self.now()
        tiers = [tier for tier in model.lineup if self.gates.tier_closed_reason(tier, now) is None] or model.lineup
        machines = [machine for machine in self.config.machines_of(model) if machine.tier in tiers]
        records = [(r, self.fleet.age(m.id)) for m in machines if (r := self.fleet.get(m.id)) is not None]
        return estimate_wake(tiers[0], records, now)

    def on_fleet_change(self, machine: str) -> None:
        """Handle a changed machine record: dispatch requests that waited for it, and acknowledge a drain."""
        record = self.fleet.get(machine)
        if record is None or record.state != "ready":
            self.scheduler.breaker.reset(machine)
        self.dispatch()
        self.on_activity_change()

    def release(self, machine: str) -> None:
        """Free the place of a request that has ended on the machine."""
        last = self.scheduler.release(machine, self.now())
        self.dispatch()
        if last:
            self.on_activity_change()

    def dispatch(self) -> None:
        """Grant free places to waiting requests: a slice now, the rest in the next iterations of the loop."""
        if not self.scheduler.total_waiting or self._is_dispatching:
            return
        if self.scheduler.dispatch(self.now(), DISPATCH_SLICE):
            self._is_dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch_more)

    def check_gates(self) -> None:
        """Evict requests behind closed gates. Call this on each change, and every second, since gates expire."""
        now = self.now()
        for model in self.scheduler.waiting_models():
            if (reason := self.gates.model_closed_reason(model, now)) is not None:
                for ticket in self.scheduler.evict(model, DISPATCH_SLICE):
                    ticket.on_refuse(self._gate_closed(reason))
                if self.scheduler.has_waiting(model):
                    asyncio.get_running_loop().call_soon(self.check_gates)
                    return
        self.dispatch()

    def _dispatch_more(self) -> None:
        self._is_dispatching = False
        self.dispatch()

    def _gate_closed(self, reason: str) -> errors.ApiError:
        """Return the error for a gate's reason. It may be retried while this process is younger than
        `observation_timeout`."""
        age = self.now() - self._started_at
        return errors.budget_closed(reason, is_starting=age <= self.config.billing.observation_timeout)
