"""A wake: from asleep to ready, over restarts, within its deadline, or back to sleep."""

from typing import Any

from services.waker.core import sleeping, unready
from services.waker.core.events import Called, Observation, Probed, RefusalScope
from services.waker.core.policy import cool_down, has_untried, starts
from services.waker.core.state import Machine, Wake
from services.waker.core.step import Step
from shared.messages.waker import ProviderCall

HOUR = 3600.0
BUSY_SECONDS = 5.0
"""A machine whose state was just changing is looked at again before it is tried again."""
ACCOUNT_SECONDS = 60.0
"""An account that refuses everything is left alone for so long."""


def begin(step: Step, machine: Machine, wake: Wake, reason: str) -> None:
    """Start a machine that sleeps."""
    recent = tuple(at for at in machine.woken if step.now - at < HOUR)
    machine = step.move(
        machine,
        "waking",
        reason,
        generation=machine.generation + 1,
        wake_id=wake.id,
        key_id=wake.keys[0] if wake.keys else None,
        causes=wake.keys,
        charged_since=step.now,
        deadline=wake.deadline,
        tried=_tried(step, machine, wake.id, starts(machine, wake.id) + 1),
        woken=(*recent, step.now),
        endpoint=None,
        stops=0,
        **_unprobed(step),
    )
    step.call(step.enter(machine, "calling"), "start")


def take_over(step: Step, machine: Machine, observation: Observation) -> None:
    """It runs, and we did not start it: one token will show what it is worth."""
    wake_id = step.spec.new_id(step.now)
    machine = step.move(
        machine,
        "waking",
        "it was running without our doing and is taken over",
        generation=machine.generation + 1 if observation.generation is None else observation.generation,
        endpoint=None,
        wake_id=wake_id,
        key_id=None,
        deadline=step.now + step.spec.wake_cap,
        tried=_tried(step, machine, wake_id, 1),
        stops=0,
        **_unprobed(step),
    )
    seen(step, step.enter(machine, "calling"), observation)


def advance(step: Step, machine: Machine) -> None:
    """What a wake under way needs now."""
    assert machine.phase is not None, "who wakes is in a phase"
    probe = f"; the last probe said {machine.probe_code}" if machine.probe_code else ""
    if step.now >= machine.deadline:
        reason = f"not ready within the wake's deadline, after {step.now - machine.since:.1f} s{probe}"
        if machine.deadline - machine.since < step.spec.wake_cap / 2:
            fail(step, machine, reason, running=True)  # it came late into its wake: that proves little
        else:
            give_up(step, machine, reason, running=True)
    elif step.now - machine.phase_since >= step.spec.phase_limits[machine.phase]:
        seconds = step.now - machine.phase_since
        give_up(step, machine, f"no further than {machine.phase} after {seconds:.1f} s of it{probe}", running=True)
    elif machine.phase in ("reaching", "loading", "first_token"):
        step.probe(machine)


def called(step: Step, machine: Machine, event: Called) -> None:
    """The outcome of a start. What is in doubt is left to the next look."""
    if event.outcome == "accepted" and event.endpoint is not None:
        generation = machine.generation if event.generation is None else event.generation
        started(step, step.set(machine, generation=generation), event.endpoint)
    elif event.outcome == "accepted" and machine.phase == "calling":
        step.enter(machine, "booting")
    elif event.outcome == "refused":
        reason = event.reason or event.code
        if event.scope == "transient":
            # It is no attempt that failed: its state was changing, and a look will say when it has.
            tried = _tried(step, machine, machine.wake_id, starts(machine, machine.wake_id) - 1)
            step.move(machine, "asleep", reason, tried=tried, cool_until=step.now + BUSY_SECONDS)
        else:
            fail(step, machine, reason, running=False, scope=event.scope)


def seen(step: Step, machine: Machine, observation: Observation) -> None:
    """The provider's view of a waking machine while no call is under way."""
    if observation.power in ("stopped", "stopped_billed", "error"):
        died(step, machine, observation)
    elif observation.power == "running" and machine.phase in ("calling", "booting"):
        generation = machine.generation if observation.generation is None else observation.generation
        endpoint = observation.endpoint or machine.spec.endpoint
        if endpoint is not None:
            started(step, step.set(machine, generation=generation), endpoint)
    elif observation.power == "starting" and machine.phase == "calling":
        step.enter(machine, "booting")


def started(step: Step, machine: Machine, endpoint: str) -> None:
    """The machine is there, or the engine's process is, where there is no network between us."""
    if machine.phase in ("calling", "booting"):
        machine = step.set(machine, endpoint=endpoint, **_unprobed(step))
        step.enter(machine, "reaching" if step.spec.observation_policy(machine.spec).reachable else "loading")


def died(step: Step, machine: Machine, observation: Observation) -> None:
    """Start it again within the limit, else give up.

    A start that left no trace is repeated at once. A machine that was there and failed has had its try: others of the
    lineup come first.
    """
    reason = observation.reason or f"it did not start: its provider says {observation.provider_state}"
    count = starts(machine, machine.wake_id)
    if observation.scope:
        fail(step, machine, reason, running=False, scope=observation.scope)
        return
    if count >= step.spec.restart_limit:
        give_up(step, machine, f"{reason}; started {count} times in this wake, which is the limit", running=False)
        return
    if machine.phase not in ("calling", "booting") and _others_untried(step, machine):
        give_up(step, machine, reason, running=False)
        return
    machine = step.enter(machine, "calling") if machine.phase != "calling" else machine
    machine = step.set(
        machine,
        reason=f"{reason}; started again",
        generation=max(machine.generation, observation.generation or 0) + 1,
        tried=_tried(step, machine, machine.wake_id, count + 1),
        endpoint=None,
        **_unprobed(step),
    )
    step.call(machine, "start")


def probed(step: Step, machine: Machine, event: Probed) -> None:
    """A probe's answer while waking: the first token makes it ready."""
    if event.wrong:
        give_up(step, step.set(machine, probe_code=event.wrong), f"its endpoint {event.wrong}", running=True)
    elif not event.answered:
        if event.host and machine.phase == "reaching":
            machine = step.enter(machine, "loading")
        failures = machine.probe_failures + 1
        after = step.now + step.spec.probe_interval
        machine = step.set(machine, probe_failures=failures, probe_code=event.code, probe_after=after)
        reason = f"its engine is up, and does not do yet what its model is for: {event.code}"
        if event.step == "token" and unready.may_retell(step, machine, reason):
            step.set(machine, reason=reason, retold_at=step.now)
    elif event.step == "reach":
        machine = step.set(machine, reached=True, probe_after=step.now)
        if machine.phase == "reaching":
            machine = step.enter(machine, "loading")
        step.enter(machine, "first_token")
    else:
        answered(step, machine, event)


def answered(step: Step, machine: Machine, event: Probed) -> None:
    """One token came: ready."""
    step.told(
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
        step.history[machine.spec.tier] = step.history_of(machine).wake(step.now - machine.since)
    settled: dict[str, Any] = {"failures": 0, "cool_until": 0.0, "probe_failures": 0}
    step.move(machine, "ready", "the engine answered one token", unready=0, unready_reason="", **settled)


def superseded(step: Step, machine: Machine, winner: Machine) -> None:
    """Another machine of the same wake was quicker: this one bills for nothing."""
    sleeping.fall(step, machine, f"{winner.id} was ready sooner")


def give_up(step: Step, machine: Machine, reason: str, *, running: bool) -> None:
    """The engine had its time and did not become ready."""
    _tell_probe(step, machine)
    unready.give_up(step, machine, reason, running=running)


def fail(step: Step, machine: Machine, reason: str, *, running: bool, scope: RefusalScope = "") -> None:
    """The wake is over for this machine: it is put to sleep and left alone for a while, with whom that concerns."""
    _tell_probe(step, machine)
    failures = machine.failures + 1
    cool_until = step.now + (ACCOUNT_SECONDS if scope == "account" else cool_down(failures))
    left_alone: dict[str, Any] = {"failures": failures, "cool_until": cool_until}
    if running:
        sleeping.fall(step, machine, reason, **left_alone)
    else:
        alarm = reason if scope in ("account", "quota", "machine") else ""
        step.move(machine, "asleep", reason, alarm=alarm, **left_alone)
    for other in list(step.machines.values()):
        if other.id != machine.id and other.state == "asleep" and _concerns(scope, machine, other):
            step.set(other, cool_until=max(other.cool_until, cool_until))


def _concerns(scope: RefusalScope, machine: Machine, other: Machine) -> bool:
    """Whether a refusal of `machine` holds for `other`, too."""
    if other.spec.provider != machine.spec.provider:
        return False
    if scope == "account":
        return True
    if machine.observation is None or other.observation is None:
        return False
    match scope:
        case "capacity_pool":
            return bool(machine.observation.pool) and other.observation.pool == machine.observation.pool
        case "quota":
            return bool(machine.observation.quota) and other.observation.quota == machine.observation.quota
        case _:
            return False


def _tried(step: Step, machine: Machine, wake_id: str | None, count: int) -> dict[str, int]:
    """The machine's starts by wake; wakes that are over are forgotten."""
    under_way = {wake.id for wake in step.wakes.values()}
    kept = {wake: starts for wake, starts in machine.tried.items() if wake in under_way}
    return kept | {wake_id or "": max(0, count)}


def _others_untried(step: Step, machine: Machine) -> bool:
    """Whether the machine's wake has another that it has not tried yet."""
    return any(
        wake.id == machine.wake_id and has_untried(step.fleet, wake.id, step.spec.lineups[model], step.now)
        for model, wake in step.wakes.items()
    )


def _tell_probe(step: Step, machine: Machine) -> None:
    if machine.probe_code:
        step.told(
            ProviderCall(
                at=step.now, machine=machine.id, call="probe", outcome="failed", code=machine.probe_code, seconds=0.0
            )
        )


def _unprobed(step: Step) -> dict[str, Any]:
    """Nothing is known of the new engine: an answer of the one before proves nothing."""
    return {
        "reached": False,
        "probe_serial": None,
        "probe_after": step.now,
        "probe_failures": 0,
        "probe_code": "",
    }
