"""A cloud in simulated time: machines that take a while, calls that are refused or lost, looks that lag behind."""

from dataclasses import dataclass, field
from typing import Literal

from services.waker.core.events import CallKind, Observation, Orphan, PowerState, RefusalScope
from shared.messages.waker import CallOutcome

RISE, FALL, LOAD = 15.0, 10.0, 10.0
"""Seconds from a start to up, from a stop to off, and from up to an engine that answers."""

Fault = Literal["transient", "machine", "capacity_pool", "quota", "account", "error", "capacity", "lost", "undone"]
"""What the next call of a machine meets: a refusal of this scope; a failure; accepted and then off again; done and its
answer lost; neither."""


@dataclass
class Vm:
    pool: str = "p"
    quota: str = "q"
    power: PowerState = "stopped"
    becomes: tuple[float, PowerState] | None = None
    """When, and what."""
    answers_at: float = 0.0
    dead: bool = False
    """Its engine is."""
    leaving: str = ""
    locked: str = ""
    bounces: int = 0
    """So often it comes back instead of falling asleep."""
    stuck: bool = False
    """It ends by force alone."""
    reason: str = ""
    scope: RefusalScope | None = None
    fault: Fault | None = None
    log: list[tuple[float, Observation]] = field(default_factory=list)

    @property
    def observation(self) -> Observation:
        return Observation(
            power=self.power,
            provider_state=self.power,
            reason=self.reason if self.power == "stopped" else "",
            scope=self.scope if self.power == "stopped" else None,
            pool=self.pool,
            quota=self.quota,
            leaving=self.leaving,
            locked=self.locked if self.power == "stopped" else "",
        )

    @property
    def billed(self) -> bool:
        return self.observation.is_billed

    def answers(self, now: float) -> bool:
        return self.power == "running" and now >= self.answers_at and not self.dead


class Cloud:
    """`now` goes on by `advance`, and may be set."""

    def __init__(self, pools: dict[str, str], now: float) -> None:
        self.vms = {name: Vm(pool=pool) for name, pool in pools.items()}
        self.orphans: set[str] = set()
        self.now = now
        self.out = False
        """Nobody can reach its API."""
        self.lag = 0.0
        self._log()

    def advance(self, now: float) -> None:
        self.now = now
        for vm in self.vms.values():
            if vm.becomes is not None and now >= vm.becomes[0]:
                self._arrive(vm, vm.becomes[1])
        self._log()

    def set_clock(self, seconds: float) -> None:
        """All that is to come moves with it."""
        self.now += seconds
        for vm in self.vms.values():
            vm.answers_at += seconds
            vm.log = [(at + seconds, observation) for at, observation in vm.log]
            if vm.becomes is not None:
                vm.becomes = (vm.becomes[0] + seconds, vm.becomes[1])

    def become(self, name: str, power: PowerState) -> None:
        """Without anybody's doing."""
        vm = self.vms[name]
        vm.becomes = None
        vm.dead = False
        self._arrive(vm, power)
        self._log()

    def call(self, name: str, kind: CallKind, *, force: bool) -> tuple[CallOutcome, RefusalScope | None] | None:
        """What is answered; None: nothing ever."""
        vm = self.vms[name]
        fault, vm.fault = vm.fault, None
        if self.out or fault == "undone":
            return None
        if fault == "error":
            return "failed", None
        if fault in ("transient", "machine", "capacity_pool", "quota", "account"):
            return "refused", fault
        answer = self._start(vm, failing=fault == "capacity") if kind == "start" else self._stop(vm, force=force)
        self._log()
        return None if fault == "lost" else answer

    def observe(self, requested_at: float) -> tuple[dict[str, Observation], tuple[Orphan, ...]]:
        """As it was a while ago."""
        seen = {name: self._seen(vm, requested_at - self.lag) for name, vm in self.vms.items()}
        orphans = tuple(
            Orphan(id=name, provider="ec2", observation=seen[name]) for name in sorted(self.orphans) if name in seen
        )
        return {name: observation for name, observation in seen.items() if name not in self.orphans}, orphans

    def _start(self, vm: Vm, *, failing: bool) -> tuple[CallOutcome, RefusalScope | None]:
        if vm.locked or vm.power == "not_found":
            return "refused", "machine"
        if vm.power == "stopping":
            return "refused", "transient"
        if vm.power in ("stopped", "stopped_billed", "error"):
            vm.power, vm.reason, vm.scope, vm.dead = "starting", "", None, False
            vm.becomes = (self.now + RISE, "stopped" if failing else "running")
            if failing:
                vm.reason, vm.scope = "Server.InsufficientInstanceCapacity", "capacity_pool"
        return "accepted", None

    def _stop(self, vm: Vm, *, force: bool) -> tuple[CallOutcome, RefusalScope | None]:
        if vm.power == "starting":
            return "refused", "transient"
        if vm.power == "stopped_billed":
            vm.power, vm.becomes = "starting", (self.now + RISE, "running")
        elif vm.power == "running":
            vm.power, vm.becomes = "stopping", None if vm.stuck and not force else (self.now + FALL, "stopped")
        elif vm.power == "stopping" and force:
            vm.becomes = vm.becomes or (self.now + FALL, "stopped")
        return "accepted", None

    def _arrive(self, vm: Vm, power: PowerState) -> None:
        if power == "stopped" and vm.power == "stopping" and vm.bounces:
            vm.bounces, power = vm.bounces - 1, "running"
        elif power == "running":
            vm.answers_at = self.now + LOAD
        if power == "stopped":
            vm.leaving, vm.stuck = "", False
        vm.power, vm.becomes = power, None

    def _log(self) -> None:
        for vm in self.vms.values():
            if not vm.log or vm.log[-1][1] != vm.observation:
                vm.log = [*vm.log[-20:], (self.now, vm.observation)]

    def _seen(self, vm: Vm, at: float) -> Observation:
        return next((observation for since, observation in reversed(vm.log) if since <= at), vm.log[0][1])
