"""A cloud in simulated time: machines that take a while, calls that are refused or lost, looks that lag behind."""

from dataclasses import dataclass, field
from typing import Literal

from services.waker.core.events import CallKind, Power, Scope, Sight, Stray
from shared.messages.waker import CallOutcome

RISE, FALL, LOAD = 15.0, 10.0, 10.0
"""Seconds from a start to up, from a stop to off, and from up to an engine that answers."""

Fault = Literal["busy", "machine", "pool", "quota", "account", "error", "capacity", "lost", "undone"]
"""What the next call of a machine meets: a refusal of this scope; a failure; accepted and then off again; done and its
answer lost; neither."""


@dataclass
class Vm:
    pool: str = "p"
    quota: str = "q"
    power: Power = "off"
    becomes: tuple[float, Power] | None = None
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
    scope: Scope = ""
    fault: Fault | None = None
    log: list[tuple[float, Sight]] = field(default_factory=list)

    @property
    def sight(self) -> Sight:
        return Sight(
            power=self.power,
            provider_state=self.power,
            reason=self.reason if self.power == "off" else "",
            scope=self.scope if self.power == "off" else "",
            pool=self.pool,
            quota=self.quota,
            leaving=self.leaving,
            locked=self.locked if self.power == "off" else "",
        )

    @property
    def billed(self) -> bool:
        return self.sight.billed

    def answers(self, now: float) -> bool:
        return self.power == "up" and now >= self.answers_at and not self.dead


class Cloud:
    """`now` goes on by `advance`, and may be set."""

    def __init__(self, pools: dict[str, str], now: float) -> None:
        self.vms = {name: Vm(pool=pool) for name, pool in pools.items()}
        self.strays: set[str] = set()
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
            vm.log = [(at + seconds, sight) for at, sight in vm.log]
            if vm.becomes is not None:
                vm.becomes = (vm.becomes[0] + seconds, vm.becomes[1])

    def become(self, name: str, power: Power) -> None:
        """Without anybody's doing."""
        vm = self.vms[name]
        vm.becomes = None
        vm.dead = False
        self._arrive(vm, power)
        self._log()

    def call(self, name: str, kind: CallKind, *, force: bool) -> tuple[CallOutcome, Scope] | None:
        """What is answered; None: nothing ever."""
        vm = self.vms[name]
        fault, vm.fault = vm.fault, None
        if self.out or fault == "undone":
            return None
        if fault == "error":
            return "failed", ""
        if fault in ("busy", "machine", "pool", "quota", "account"):
            return "refused", fault
        answer = self._start(vm, failing=fault == "capacity") if kind == "start" else self._stop(vm, force=force)
        self._log()
        return None if fault == "lost" else answer

    def look(self, asked_at: float) -> tuple[dict[str, Sight], tuple[Stray, ...]]:
        """As it was a while ago."""
        seen = {name: self._seen(vm, asked_at - self.lag) for name, vm in self.vms.items()}
        strays = tuple(Stray(id=name, provider="ec2", sight=seen[name]) for name in sorted(self.strays) if name in seen)
        return {name: sight for name, sight in seen.items() if name not in self.strays}, strays

    def _start(self, vm: Vm, *, failing: bool) -> tuple[CallOutcome, Scope]:
        if vm.locked or vm.power == "gone":
            return "refused", "machine"
        if vm.power == "falling":
            return "refused", "busy"
        if vm.power in ("off", "halted", "failed"):
            vm.power, vm.reason, vm.scope, vm.dead = "rising", "", "", False
            vm.becomes = (self.now + RISE, "off" if failing else "up")
            if failing:
                vm.reason, vm.scope = "Server.InsufficientInstanceCapacity", "pool"
        return "accepted", ""

    def _stop(self, vm: Vm, *, force: bool) -> tuple[CallOutcome, Scope]:
        if vm.power == "rising":
            return "refused", "busy"
        if vm.power == "halted":
            vm.power, vm.becomes = "rising", (self.now + RISE, "up")
        elif vm.power == "up":
            vm.power, vm.becomes = "falling", None if vm.stuck and not force else (self.now + FALL, "off")
        elif vm.power == "falling" and force:
            vm.becomes = vm.becomes or (self.now + FALL, "off")
        return "accepted", ""

    def _arrive(self, vm: Vm, power: Power) -> None:
        if power == "off" and vm.power == "falling" and vm.bounces:
            vm.bounces, power = vm.bounces - 1, "up"
        elif power == "up":
            vm.answers_at = self.now + LOAD
        if power == "off":
            vm.leaving, vm.stuck = "", False
        vm.power, vm.becomes = power, None

    def _log(self) -> None:
        for vm in self.vms.values():
            if not vm.log or vm.log[-1][1] != vm.sight:
                vm.log = [*vm.log[-20:], (self.now, vm.sight)]

    def _seen(self, vm: Vm, at: float) -> Sight:
        return next((sight for since, sight in reversed(vm.log) if since <= at), vm.log[0][1])
