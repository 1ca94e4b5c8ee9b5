"""One step of the fleet: a working copy of the state, and the few ways in which a machine changes."""

from dataclasses import replace
from typing import Any

from services.waker.core import key_wakes
from services.waker.core.events import (
    CallKind,
    Effect,
    Journal,
    Observe,
    Probe,
    ProbeStep,
    Remember,
    StartMachine,
    StopMachine,
    TestProvider,
    Write,
)
from services.waker.core.history import History
from services.waker.core.key_wakes import KeyAccount
from services.waker.core.state import Call, Fleet, Machine, ProviderHealth
from services.waker.core.transitions import IllegalTransition, is_legal
from shared.config.providers import ProviderName
from shared.messages.waker import JournalEntry, MachineState, Phase, PhaseEnded, Transition

LOST_SECONDS = 5.0
"""Past its own time-out an answer is late; then it is lost."""
OBSERVATION_LOST_S = 120.0
"""A look may take several calls, each in its turn."""


class Step:
    """Made for one event, at `now`; `done` gives the next fleet and what is to be done, in this order."""

    def __init__(self, fleet: Fleet, now: float) -> None:
        self.before = fleet
        self.spec = fleet.spec
        self.now = now
        self.machines = dict(fleet.machines)
        self.provider_health = dict(fleet.provider_health)
        self.demand = dict(fleet.demand)
        self.orders = fleet.orders
        self.gateways = dict(fleet.gateways)
        self.wakes = dict(fleet.wakes)
        self.history = dict(fleet.history)
        self.closed = fleet.closed
        self.keys = dict(fleet.keys)
        self._journal: list[Effect] = []
        self._effects: list[Effect] = []

    @property
    def fleet(self) -> Fleet:
        """As it stands within the step."""
        return Fleet(
            spec=self.spec,
            leading_since=self.before.leading_since,
            machines=self.machines,
            provider_health=self.provider_health,
            demand=self.demand,
            orders=self.orders,
            gateways=self.gateways,
            wakes=self.wakes,
            history=self.history,
            closed=self.closed,
            keys=self.keys,
        )

    def done(self) -> tuple[Fleet, list[Effect]]:
        key_wakes.settle(self)
        before, fleet = self.before, self.fleet
        writes: list[Effect] = []
        memories: list[Effect] = []
        for machine in self.machines.values():
            old = before.machines.get(machine.id)
            if machine is old:
                continue
            record = machine.record()
            if record is not None and (old is None or record != old.record()):
                writes.append(Write(record))
            memory = machine.memory()
            if machine.spec.configured and (old is None or memory != old.memory()):
                memories.append(Remember(memory))
        memories += [Remember(h.memory(tier)) for tier, h in self.history.items() if h != before.history.get(tier)]
        if fleet.orders != before.orders:
            memories.append(Remember(fleet.orders_memory()))
        told = {key for key, account in self.keys.items() if account != before.keys.get(key)}
        if fleet.wakes != before.wakes:
            memories.append(Remember(fleet.wakes_memory()))
            told.update(key for wake in (*before.wakes.values(), *fleet.wakes.values()) for key in wake.keys)
        memories += [Remember(fleet.key_message(key)) for key in sorted(told)]
        for key in told:
            if self.keys.get(key, KeyAccount()).is_empty:
                self.keys.pop(key, None)
        return fleet, [*self._journal, *writes, *memories, *self._effects]

    def set(self, machine: Machine, **changes: Any) -> Machine:
        machine = replace(machine, **changes)
        self.machines[machine.id] = machine
        return machine

    def move(
        self, machine: Machine, to: MachineState, reason: str, *, at: float | None = None, **changes: Any
    ) -> Machine:
        """A legal move, journalled; `IllegalTransition` for any other. `at`: when it happened, if that is known."""
        if not is_legal(machine.state, to):
            raise IllegalTransition(f"{machine.id}: {machine.state} to {to}: {reason}")
        moment = self.now if at is None else min(self.now, max(machine.since, at))
        self._phase_ends(machine, done=to == "ready")
        settled: dict[str, Any] = {"phase": None, "ready_at": None, "drain_revision": None, "probe_serial": None}
        if to in ("asleep", "falling_asleep", "broken", "gone"):
            settled |= {"endpoint": machine.spec.endpoint, "reached": False}
        if to in ("asleep", "ready", "waking"):
            settled |= {"alarm": "", "put_down": False}
        if to == "asleep" and machine.kept:
            # Lost, not put to sleep: the operator's word stands, for whichever machine can follow it.
            settled["kept"] = False
            self.orders = tuple(dict.fromkeys((*self.orders, *machine.spec.models[:1])))
        moved = self.set(machine, **(settled | {"state": to, "since": moment, "reason": reason} | changes))
        self.told(
            Transition(
                at=moment,
                machine=moved.id,
                tier=moved.spec.tier,
                from_state=machine.state,
                to_state=to,
                reason=reason,
                generation=moved.generation,
                wake_id=moved.wake_id,
                key_id=moved.key_id,
            )
        )
        return moved

    def enter(self, machine: Machine, phase: Phase) -> Machine:
        """The wake's next phase; how long the one before took is remembered."""
        if machine.phase == phase:
            return machine
        self._phase_ends(machine, done=True)
        ready_at = self.history_of(machine).expected(phase, self.now)
        return self.set(machine, phase=phase, phase_since=self.now, ready_at=ready_at)

    def history_of(self, machine: Machine) -> History:
        return self.history.get(machine.spec.tier, History())

    def _phase_ends(self, machine: Machine, *, done: bool) -> None:
        if machine.phase is None:
            return
        seconds = max(0.0, self.now - machine.phase_since)
        if done:
            self.history[machine.spec.tier] = self.history_of(machine).phase(machine.phase, seconds)
        self.told(
            PhaseEnded(
                at=self.now,
                machine=machine.id,
                tier=machine.spec.tier,
                wake_id=machine.wake_id or "",
                phase=machine.phase,
                seconds=seconds,
                done=done,
            )
        )

    def call(self, machine: Machine, kind: CallKind) -> Machine:
        serial = machine.serial + 1
        machine = self.set(machine, serial=serial, call=Call(kind, serial, self.now))
        if kind == "start":
            self._effects.append(StartMachine(machine.id, serial, machine.generation))
        else:
            self._effects.append(StopMachine(machine.id, serial, force=machine.stops > 0))
            machine = self.set(machine, stops=machine.stops + 1)
        return machine

    def observe(self, provider: ProviderName, every: float) -> None:
        account = self.provider_health.get(provider, ProviderHealth())
        lost = account.looking and self.now - account.asked_at > OBSERVATION_LOST_S
        if (not account.looking or lost) and self.now - account.asked_at >= every:
            self.provider_health[provider] = replace(account, looking=True, asked_at=self.now)
            self._effects.append(Observe(provider))

    def test(self, provider: ProviderName, every: float) -> None:
        account = self.provider_health.get(provider, ProviderHealth())
        asked = account.test_asked_at
        lost = account.testing and asked is not None and self.now - asked > OBSERVATION_LOST_S
        if asked is None or ((not account.testing or lost) and self.now - asked >= every):
            self.provider_health[provider] = replace(account, testing=True, test_asked_at=self.now)
            self._effects.append(TestProvider(provider))

    def probe(self, machine: Machine) -> None:
        """Ask the engine whether it answers, or, once it does, for one token."""
        if machine.probe_serial is not None and self.now - machine.probed_at > self.spec.call_timeout + LOST_SECONDS:
            machine = self.set(machine, probe_serial=None)  # its answer was lost
        if machine.endpoint is None or machine.probe_serial is not None or self.now < machine.probe_after:
            return
        serial = machine.serial + 1
        self.set(machine, serial=serial, probe_serial=serial, probed_at=self.now)
        step: ProbeStep = "token" if machine.reached and machine.state not in ("ready", "draining") else "reach"
        limit = machine.deadline - self.now if machine.state == "waking" else self.spec.call_timeout
        timeout = min(limit, self.spec.call_timeout)
        self._effects.append(Probe(machine.id, serial, step, machine.endpoint, machine.spec.served_as, timeout))

    def told(self, entry: JournalEntry) -> None:
        self._journal.append(Journal(entry))
