"""A wake on one machine: from asleep to ready within its deadline, over restarts, or back to sleep."""

from dataclasses import replace

from services.waker.core import sleeping, unready
from services.waker.core.events import Called, Observation, Probed, RefusalScope
from services.waker.core.machine import Backoff, Machine, PendingCharge, WakeAttempt
from services.waker.core.policy import cool_down_s, has_untried, starts
from services.waker.core.state import Wake
from services.waker.core.step import Step
from shared.messages.waker import ProviderCall
from shared.units import HOUR_S

TRANSIENT_S = 5.0
"""A machine that was just changing state is observed again before it is tried again."""
ACCOUNT_S = 60.0
"""An account that refuses everything is left alone for this long."""


def begin(step: Step, machine: Machine, wake: Wake, reason: str) -> None:
    """Start a machine that is asleep."""
    recent = tuple(at for at in machine.starts.wakes_at if step.now - at < HOUR_S)
    machine = _with_starts(step, machine, wake.id, starts(machine, wake.id) + 1)
    machine = replace(
        machine,
        generation=machine.generation + 1,
        wake_id=wake.id,
        key_id=wake.keys[0] if wake.keys else None,
        charge=PendingCharge(wake.keys, step.now) if wake.keys else None,
        starts=replace(machine.starts, wakes_at=(*recent, step.now)),
        endpoint=None,
        probe=machine.probe.for_new_engine(step.now),
    )
    step.call_start(step.begin_attempt(machine, reason, wake.deadline))


def take_over(step: Step, machine: Machine, observation: Observation) -> None:
    """Adopt a machine that runs although the waker did not start it: one token shows whether it is of use."""
    wake_id = step.spec.new_id(step.now)
    machine = replace(
        _with_starts(step, machine, wake_id, 1),
        generation=machine.generation + 1 if observation.generation is None else observation.generation,
        endpoint=None,
        wake_id=wake_id,
        key_id=None,
        probe=machine.probe.for_new_engine(step.now),
    )
    reason = "it was started outside the suite and is adopted"
    machine = step.begin_attempt(machine, reason, step.now + step.spec.wake_cap_s)
    apply_observation(step, machine, observation)


def advance(step: Step, machine: Machine, attempt: WakeAttempt) -> None:
    """Do what a wake under way needs now: give up at its deadline or its phase's limit, else probe."""
    probe = f"; the last probe said {machine.probe.error}" if machine.probe.error else ""
    phase_s = step.now - attempt.phase_since
    if step.now >= attempt.deadline:
        reason = f"not ready within the wake's deadline, after {step.now - machine.since:.1f} s{probe}"
        if attempt.deadline - machine.since < step.spec.wake_cap_s / 2:
            fail(step, machine, reason, running=True)  # it joined its wake late, which proves little
        else:
            give_up(step, machine, reason, running=True)
    elif phase_s >= step.spec.phase_limits[attempt.phase]:
        reason = f"no further than {attempt.phase} after {phase_s:.1f} s of it{probe}"
        give_up(step, machine, reason, running=True)
    elif attempt.phase in ("reaching", "loading", "first_token"):
        step.send_probe(machine)


def apply_call(step: Step, machine: Machine, event: Called) -> None:
    """Apply the result of a start call. An unknown result is left to the next observation."""
    if event.outcome == "accepted" and event.endpoint is not None:
        if event.generation is not None:
            machine = step.put(replace(machine, generation=event.generation))
        await_engine(step, machine, event.endpoint)
    elif event.outcome == "accepted" and machine.phase == "calling":
        step.enter_phase(machine, "booting")
    elif event.outcome == "refused":
        reason = event.reason or event.code
        if event.scope == "transient":
            # This was no failed attempt: its state was changing, and an observation will show when that is over.
            machine = _with_starts(step, machine, machine.wake_id, starts(machine, machine.wake_id) - 1)
            machine = replace(machine, backoff=replace(machine.backoff, until=step.now + TRANSIENT_S))
            step.transition(machine, "asleep", reason)
        else:
            fail(step, machine, reason, running=False, scope=event.scope)


def apply_observation(step: Step, machine: Machine, observation: Observation) -> None:
    """Apply what the provider sees of a waking machine while no call is under way."""
    if observation.power in ("stopped", "stopped_billed", "error"):
        restart_or_give_up(step, machine, observation)
    elif observation.power == "running" and machine.phase in ("calling", "booting"):
        endpoint = observation.endpoint or machine.spec.endpoint
        if endpoint is not None:
            if observation.generation is not None:
                machine = step.put(replace(machine, generation=observation.generation))
            await_engine(step, machine, endpoint)
    elif observation.power == "starting" and machine.phase == "calling":
        step.enter_phase(machine, "booting")


def await_engine(step: Step, machine: Machine, endpoint: str) -> None:
    """The machine runs, or the engine's process does where there is no network between us: probe the engine."""
    if machine.phase in ("calling", "booting"):
        machine = step.put(replace(machine, endpoint=endpoint, probe=machine.probe.for_new_engine(step.now)))
        is_remote = step.spec.observation_policy(machine.spec).is_remote
        step.enter_phase(machine, "reaching" if is_remote else "loading")


def restart_or_give_up(step: Step, machine: Machine, observation: Observation) -> None:
    """Start a machine again that went down while it woke, or give up at the limit.

    A start that left no trace is repeated at once. A machine that was up and failed has had its turn: other machines
    of the lineup are tried first.
    """
    reason = observation.reason or f"it did not start: its provider says {observation.provider_state}"
    count = starts(machine, machine.wake_id)
    if observation.scope is not None:
        fail(step, machine, reason, running=False, scope=observation.scope)
        return
    if count >= step.spec.restart_limit:
        give_up(step, machine, f"{reason}; started {count} times in this wake, which is the limit", running=False)
        return
    if machine.phase not in ("calling", "booting") and _has_untried_machine(step, machine):
        give_up(step, machine, reason, running=False)
        return
    machine = _with_starts(step, step.enter_phase(machine, "calling"), machine.wake_id, count + 1)
    machine = replace(
        machine,
        reason=f"{reason}; started again",
        generation=max(machine.generation, observation.generation or 0) + 1,
        endpoint=None,
        probe=machine.probe.for_new_engine(step.now),
    )
    step.call_start(machine)


def apply_probe(step: Step, machine: Machine, event: Probed) -> None:
    """Apply a probe's result to a waking machine: the first token makes it ready."""
    probe = machine.probe
    if event.mismatch:
        machine = step.put(replace(machine, probe=replace(probe, error=event.mismatch)))
        give_up(step, machine, f"its endpoint {event.mismatch}", running=True)
    elif not event.answered:
        if event.is_host_up and machine.phase == "reaching":
            machine = step.enter_phase(machine, "loading")
        next_at = step.now + step.spec.probe_interval_s
        probe = replace(probe, failures=probe.failures + 1, error=event.code, next_at=next_at)
        machine = step.put(replace(machine, probe=probe))
        reason = f"its engine is up, but does not do what its model is for yet: {event.code}"
        if event.step == "token" and unready.may_update_reason(step, machine, reason):
            step.put(replace(machine, reason=reason, probe=replace(probe, reported_at=step.now)))
    elif event.step == "reach":
        machine = step.put(replace(machine, probe=replace(probe, is_reachable=True, next_at=step.now)))
        if machine.phase == "reaching":
            machine = step.enter_phase(machine, "loading")
        step.enter_phase(machine, "first_token")
    else:
        become_ready(step, machine, event)


def become_ready(step: Step, machine: Machine, event: Probed) -> None:
    """Make a machine ready whose engine produced a token."""
    step.journal(
        ProviderCall(
            at=step.now,
            machine=machine.id,
            call="probe",
            outcome="accepted",
            code="",
            seconds=event.seconds,
            tokens=event.tokens,
        )
    )
    if machine.state == "waking" and machine.key_id is not None:
        step.history[machine.spec.tier] = step.history_of(machine).with_wake(step.now - machine.since)
    machine = replace(machine, backoff=Backoff(), probe=replace(machine.probe, failures=0))
    step.transition(machine, "ready", "the engine answered one token")


def supersede(step: Step, machine: Machine, winner: Machine) -> None:
    """Hibernate a machine that another machine of the same wake has overtaken: it would be billed for nothing."""
    sleeping.hibernate(step, machine, f"{winner.id} was ready sooner")


def give_up(step: Step, machine: Machine, reason: str, *, running: bool) -> None:
    """End the wake of a machine whose engine had its time and did not become ready."""
    _journal_probe_error(step, machine)
    unready.give_up(step, machine, reason, running=running)


def fail(step: Step, machine: Machine, reason: str, *, running: bool, scope: RefusalScope | None = None) -> None:
    """End the wake for this machine, and leave it alone for a while with every machine that the refusal concerns."""
    _journal_probe_error(step, machine)
    failures = machine.backoff.failed_wakes + 1
    until = step.now + (ACCOUNT_S if scope == "account" else cool_down_s(failures))
    machine = replace(machine, backoff=replace(machine.backoff, failed_wakes=failures, until=until))
    if running:
        sleeping.hibernate(step, machine, reason)
    else:
        alarm = reason if scope in ("account", "quota", "machine") else ""
        step.transition(machine, "asleep", reason, alarm=alarm)
    for other in list(step.machines.values()):
        if other.id != machine.id and other.state == "asleep" and _concerns(scope, machine, other):
            step.put(replace(other, backoff=replace(other.backoff, until=max(other.backoff.until, until))))


def _concerns(scope: RefusalScope | None, machine: Machine, other: Machine) -> bool:
    """Whether a refusal of `machine` holds for `other`, too."""
    if other.spec.provider != machine.spec.provider:
        return False
    if scope == "account":
        return True
    if machine.observation is None or other.observation is None:
        return False
    match scope:
        case "capacity_pool":
            pool = machine.observation.pool
            return bool(pool) and other.observation.pool == pool
        case "quota":
            quota = machine.observation.quota
            return bool(quota) and other.observation.quota == quota
        case _:
            return False


def _with_starts(step: Step, machine: Machine, wake_id: str | None, count: int) -> Machine:
    """Set how often a wake has started the machine, and forget the wakes that are over."""
    under_way = {wake.id for wake in step.wakes.values()}
    remembered = {wake: number for wake, number in machine.starts.by_wake.items() if wake in under_way}
    by_wake = remembered | {wake_id or "": max(0, count)}
    return replace(machine, starts=replace(machine.starts, by_wake=by_wake))


def _has_untried_machine(step: Step, machine: Machine) -> bool:
    """Whether the machine's wake could still try another machine."""
    return any(
        wake.id == machine.wake_id and has_untried(step.fleet, wake.id, step.spec.lineups[model], step.now)
        for model, wake in step.wakes.items()
    )


def _journal_probe_error(step: Step, machine: Machine) -> None:
    code = machine.probe.error
    if code:
        step.journal(
            ProviderCall(at=step.now, machine=machine.id, call="probe", outcome="failed", code=code, seconds=0.0)
        )
