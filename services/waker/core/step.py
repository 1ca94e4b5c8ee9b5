"""One step of the fleet: a working copy of the state, and the few ways in which a machine changes."""

from dataclasses import replace
from typing import Final

from services.waker.core import key_wakes
from services.waker.core.engine_checks import IdleCheck
from services.waker.core.events import (
    CallKind,
    CountRequests,
    Effect,
    Forget,
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
from services.waker.core.history import PHASES, TierHistory
from services.waker.core.key_wakes import KeyAccount
from services.waker.core.machine import Call, Machine, StopAttempts, WakeAttempt
from services.waker.core.state import Fleet, ProviderHealth
from services.waker.core.transitions import IllegalTransition, is_legal
from shared.config.providers import ProviderName
from shared.messages.waker import JournalEntry, MachineState, Phase, PhaseEnded, Transition

LOST_AFTER_S = 5.0
"""A call or probe that is this far past its own time-out has lost its result."""
OBSERVATION_LOST_AFTER_S = 120.0
"""An observation may take several calls, one after the other."""


class Step:
    """Created for one event at `now`; `finish` returns the next fleet and its effects, in order."""

    def __init__(self, fleet: Fleet, now: float) -> None:
        self.before = fleet
        self.spec = fleet.spec
        self.now = now
        self.machines: Final = dict(fleet.machines)
        self.provider_health: Final = dict(fleet.provider_health)
        self.demand = dict(fleet.demand)
        self.operator_wakes = fleet.operator_wakes
        self.gateways = dict(fleet.gateways)
        self.wakes: Final = dict(fleet.wakes)
        self.history: Final = dict(fleet.history)
        self.closed = fleet.closed
        self.keys: Final = dict(fleet.keys)
        self.removed = fleet.removed
        self._journal: list[Effect] = []
        self._effects: list[Effect] = []
        self._fleet: Fleet | None = None

    @property
    def fleet(self) -> Fleet:
        """The fleet as it stands within the step: what has changed in its mappings is seen in earlier values too."""
        fleet = self._fleet
        if fleet is None or not (
            fleet.operator_wakes is self.operator_wakes
            and fleet.closed is self.closed
            and fleet.removed is self.removed
            and fleet.demand is self.demand
            and fleet.gateways is self.gateways
        ):
            fleet = self._fleet = self._current_fleet()
        return fleet

    def _current_fleet(self) -> Fleet:
        return Fleet(
            spec=self.spec,
            leading_since=self.before.leading_since,
            machines=self.machines,
            provider_health=self.provider_health,
            demand=self.demand,
            operator_wakes=self.operator_wakes,
            gateways=self.gateways,
            wakes=self.wakes,
            history=self.history,
            closed=self.closed,
            keys=self.keys,
            removed=self.removed,
            is_outdated=self.before.is_outdated,
        )

    def finish(self) -> tuple[Fleet, list[Effect]]:
        """The next fleet, and the effects: journal, records, memories, then calls and probes."""
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
        if fleet.operator_wakes != before.operator_wakes:
            memories.append(Remember(fleet.operator_wakes_memory()))
        changed_keys = {key for key, account in self.keys.items() if account != before.keys.get(key)}
        if fleet.wakes != before.wakes:
            memories.append(Remember(fleet.wakes_memory()))
            changed_keys.update(key for wake in (*before.wakes.values(), *fleet.wakes.values()) for key in wake.keys)
        memories += [Remember(fleet.key_message(key)) for key in sorted(changed_keys)]
        for key in changed_keys:
            if self.keys.get(key, KeyAccount()).is_empty:
                self.keys.pop(key, None)
        return fleet, [*self._journal, *writes, *memories, *self._effects]

    def put(self, machine: Machine) -> Machine:
        """Take over a changed machine."""
        self.machines[machine.id] = machine
        return machine

    def transition(
        self,
        machine: Machine,
        to: MachineState,
        reason: str,
        *,
        at: float | None = None,
        alarm: str | None = None,
        attempt: WakeAttempt | None = None,
        stop: StopAttempts | None = None,
    ) -> Machine:
        """Change a machine's state and journal that.

        Args:
            at: when it happened, if that is known; None: now.
            alarm: see `Machine.enter`, as for `attempt` and `stop`.

        Raises:
            IllegalTransition: the table of transitions does not have it.
        """
        if not is_legal(machine.state, to):
            raise IllegalTransition(f"{machine.id}: {machine.state} to {to}: {reason}")
        moment = self.now if at is None else min(self.now, max(machine.since, at))
        self._end_phase(machine, done=to == "ready")
        moved = machine.enter(to, reason, moment, alarm=alarm, attempt=attempt, stop=stop)
        if to == "asleep" and machine.operator.keep_awake:
            # It was lost, not put to sleep: the operator's `wake` stands, for whichever machine can serve it.
            moved = replace(moved, operator=replace(moved.operator, keep_awake=False))
            self.operator_wakes = tuple(dict.fromkeys((*self.operator_wakes, *machine.spec.models[:1])))
        self.journal(
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
        return self.put(moved)

    def begin_attempt(self, machine: Machine, reason: str, deadline: float) -> Machine:
        """Begin to wake a machine: its first phase is the provider call."""
        ready_at = self.history_of(machine).expected("calling", self.now)
        attempt = WakeAttempt(deadline=deadline, phase="calling", phase_since=self.now, ready_at=ready_at)
        return self.transition(machine, "waking", reason, attempt=attempt)

    def enter_phase(self, machine: Machine, phase: Phase) -> Machine:
        """Move a wake to another phase. It passed the previous one unless it goes back to an earlier one."""
        attempt = machine.attempt
        if attempt is None or attempt.phase == phase:
            return machine
        self._end_phase(machine, done=PHASES.index(phase) > PHASES.index(attempt.phase))
        ready_at = self.history_of(machine).expected(phase, self.now)
        return self.put(
            replace(machine, attempt=replace(attempt, phase=phase, phase_since=self.now, ready_at=ready_at))
        )

    def history_of(self, machine: Machine) -> TierHistory:
        return self.history.get(machine.spec.tier, TierHistory())

    def _end_phase(self, machine: Machine, *, done: bool) -> None:
        attempt = machine.attempt
        if attempt is None:
            return
        seconds = max(0.0, self.now - attempt.phase_since)
        if done:
            self.history[machine.spec.tier] = self.history_of(machine).with_phase(attempt.phase, seconds)
        self.journal(
            PhaseEnded(
                at=self.now,
                machine=machine.id,
                tier=machine.spec.tier,
                wake_id=machine.wake_id or "",
                phase=attempt.phase,
                seconds=seconds,
                done=done,
            )
        )

    def call_start(self, machine: Machine) -> Machine:
        """Call the provider to start a machine."""
        machine = self._begin_call(machine, "start")
        self._effects.append(StartMachine(machine.id, machine.calls.last_serial, machine.generation))
        return machine

    def call_stop(self, machine: Machine, stop: StopAttempts) -> Machine:
        """Call the provider to stop a machine; every call but the first of a hibernation uses force."""
        machine = self._begin_call(machine, "stop")
        self._effects.append(StopMachine(machine.id, machine.calls.last_serial, force=stop.count > 0))
        return self.put(replace(machine, stop=replace(stop, count=stop.count + 1)))

    def _begin_call(self, machine: Machine, kind: CallKind) -> Machine:
        serial = machine.calls.last_serial + 1
        calls = replace(machine.calls, last_serial=serial, pending=Call(kind, serial, self.now))
        return self.put(replace(machine, calls=calls))

    def observe(self, provider: ProviderName, every_s: float) -> None:
        """Observe a provider, unless that is under way or was done within `every_s`."""
        health = self.provider_health.get(provider, ProviderHealth())
        age_s = self.now - health.observe_sent_at
        is_lost = health.is_observing and age_s > OBSERVATION_LOST_AFTER_S
        if (not health.is_observing or is_lost) and age_s >= every_s:
            self.provider_health[provider] = replace(health, is_observing=True, observe_sent_at=self.now)
            self._effects.append(Observe(provider))

    def test(self, provider: ProviderName, every_s: float) -> None:
        """Self-test a provider, unless that is under way or was done within `every_s`."""
        health = self.provider_health.get(provider, ProviderHealth())
        sent_at = health.test_sent_at
        is_lost = health.is_testing and sent_at is not None and self.now - sent_at > OBSERVATION_LOST_AFTER_S
        if sent_at is None or ((not health.is_testing or is_lost) and self.now - sent_at >= every_s):
            self.provider_health[provider] = replace(health, is_testing=True, test_sent_at=self.now)
            self._effects.append(TestProvider(provider))

    def send_probe(self, machine: Machine) -> None:
        """Probe the engine if that is due: for any response or, once it has responded, for one token."""
        probe = machine.probe
        if probe.serial is not None and self.now - probe.sent_at > self.spec.call_timeout_s + LOST_AFTER_S:
            probe = replace(probe, serial=None)  # its result was lost
            machine = self.put(replace(machine, probe=probe))
        if machine.endpoint is None or probe.serial is not None or self.now < probe.next_at:
            return
        serial = machine.calls.last_serial + 1
        self.put(
            replace(
                machine,
                calls=replace(machine.calls, last_serial=serial),
                probe=replace(probe, serial=serial, sent_at=self.now),
            )
        )
        step: ProbeStep = "token" if probe.is_reachable and machine.state not in ("ready", "draining") else "reach"
        limit_s = self.spec.call_timeout_s if machine.attempt is None else machine.attempt.deadline - self.now
        timeout_s = min(limit_s, self.spec.call_timeout_s)
        self._effects.append(Probe(machine.id, serial, step, machine.endpoint, machine.spec.served_as, timeout_s))

    def count_requests(self, machine: Machine, timeout_s: float) -> None:
        """Ask the engine how many requests it runs, unless that is under way or not due yet."""
        check = machine.idle_check
        is_lost = self.now - check.sent_at > timeout_s + LOST_AFTER_S
        if machine.endpoint is None or (check.serial is not None and not is_lost) or self.now < check.next_at:
            return
        serial = machine.calls.last_serial + 1
        under_way = IdleCheck(serial=serial, sent_at=self.now, failures=check.failures)
        self.put(replace(machine, calls=replace(machine.calls, last_serial=serial), idle_check=under_way))
        self._effects.append(CountRequests(machine.id, serial, machine.endpoint, timeout_s))

    def forget_removed(self) -> None:
        """Delete the records of removed machines whose time is over."""
        over = [name for name, at in self.removed.items() if at <= self.now]
        if over:
            self.removed = {name: at for name, at in self.removed.items() if name not in over}
            self._effects += map(Forget, over)

    def journal(self, entry: JournalEntry) -> None:
        self._journal.append(Journal(entry))
