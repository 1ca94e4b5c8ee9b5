"""One step of the fleet: a working copy of the state, and the few ways in which a machine changes."""

from dataclasses import replace
from typing import Any

from services.waker.core.events import (
    CallKind,
    Effect,
    Journal,
    LookAt,
    Probe,
    ProbeStep,
    StartMachine,
    StopMachine,
    Write,
)
from services.waker.core.policy import demands, expected, remembered
from services.waker.core.state import MOVES, Call, Fleet, IllegalMove, Machine
from shared.messages.waker import MachineState, Phase, ProviderCall, Transition

LOST_SECONDS = 5.0
"""Past its own time-out an answer is late; then it is lost."""


class Turn:
    """Made for one event, at `now`; `done` gives the next fleet and what is to be done, in this order."""

    def __init__(self, fleet: Fleet, now: float) -> None:
        self.before = fleet
        self.plan = fleet.plan
        self.now = now
        self.machines = dict(fleet.machines)
        self.demand = dict(fleet.demand)
        self.gateways = dict(fleet.gateways)
        self.wakes = dict(fleet.wakes)
        self.history = fleet.history
        self._journal: list[Effect] = []
        self._effects: list[Effect] = []

    @property
    def fleet(self) -> Fleet:
        """As it stands within the step."""
        return replace(
            self.before,
            machines=self.machines,
            demand=self.demand,
            gateways=self.gateways,
            wakes=self.wakes,
            history=self.history,
        )

    def done(self) -> tuple[Fleet, list[Effect]]:
        writes: list[Effect] = []
        for machine in self.machines.values():
            record, old = machine.record(), self.before.machines[machine.id].record()
            if record is not None and record != old:
                writes.append(Write(record))
        return self.fleet, [*self._journal, *writes, *self._effects]

    def set(self, machine: Machine, **changes: Any) -> Machine:
        machine = replace(machine, **changes)
        self.machines[machine.id] = machine
        return machine

    def move(
        self, machine: Machine, to: MachineState, reason: str, *, at: float | None = None, **changes: Any
    ) -> Machine:
        """A legal move, journalled; `IllegalMove` for any other. `at`: when it happened, if that is known."""
        if to not in MOVES[machine.state]:
            raise IllegalMove(f"{machine.id}: {machine.state} to {to}: {reason}")
        moment = self.now if at is None else min(self.now, max(machine.since, at))
        settled: dict[str, Any] = {"phase": None, "ready_at": None, "drain_revision": None, "probe_serial": None}
        if to in ("asleep", "falling_asleep", "broken"):
            settled |= {"endpoint": machine.plan.endpoint, "reached": False}
        moved = self.set(machine, **(settled | {"state": to, "since": moment, "reason": reason} | changes))
        self._journal.append(
            Journal(
                Transition(
                    at=moment,
                    machine=moved.id,
                    tier=moved.plan.tier,
                    from_state=machine.state,
                    to_state=to,
                    reason=reason,
                    generation=moved.generation,
                    wake_id=moved.wake_id,
                    key_id=moved.key_id,
                )
            )
        )
        return moved

    def enter(self, machine: Machine, phase: Phase) -> Machine:
        """The wake's next phase; how long the one before took is remembered."""
        if machine.phase == phase:
            return machine
        self.remember(machine)
        ready_at = expected(self.history, machine.plan.tier, phase, self.now)
        return self.set(machine, phase=phase, phase_since=self.now, ready_at=ready_at)

    def remember(self, machine: Machine) -> None:
        """How long the phase took that ends now."""
        if machine.phase is not None:
            seconds = self.now - machine.phase_since
            self.history = remembered(self.history, machine.plan.tier, machine.phase, seconds)

    def call(self, machine: Machine, kind: CallKind) -> Machine:
        serial = machine.serial + 1
        machine = self.set(machine, serial=serial, call=Call(kind, serial, self.now))
        if kind == "start":
            self._effects.append(StartMachine(machine.id, serial, machine.generation))
        else:
            machine = self.set(machine, stops=machine.stops + 1)
            self._effects.append(StopMachine(machine.id, serial))
        return machine

    def look(self, machine: Machine, every: float) -> None:
        if machine.call is None and self.now - machine.looked_at >= every:
            self.set(machine, looked_at=self.now)
            self._effects.append(LookAt(machine.id))

    def probe(self, machine: Machine) -> None:
        """Ask the engine whether it answers, or, once it does, for one token."""
        if machine.probe_serial is not None and self.now - machine.probed_at > self.plan.call_timeout + LOST_SECONDS:
            machine = self.set(machine, probe_serial=None)  # its answer was lost
        if machine.endpoint is None or machine.probe_serial is not None or self.now < machine.probe_after:
            return
        serial = machine.serial + 1
        self.set(machine, serial=serial, probe_serial=serial, probed_at=self.now)
        step: ProbeStep = "token" if machine.reached and machine.state != "ready" else "reach"
        limit = machine.deadline - self.now if machine.state == "waking" else self.plan.call_timeout
        self._effects.append(
            Probe(
                machine.id,
                serial,
                step,
                machine.endpoint,
                machine.plan.served_as,
                min(limit, self.plan.call_timeout),
            )
        )

    def told(self, call: ProviderCall) -> None:
        self._journal.append(Journal(call))

    def wanted(self, machine: Machine) -> bool:
        return bool(demands(self.fleet, machine.plan.models))
