"""From ready to asleep: the drain in two steps, the stop and its retries, and machines that will not stop."""

from dataclasses import replace

from services.waker.core import key_wakes
from services.waker.core.engine_checks import IdleCheck
from services.waker.core.events import Called, Observation, RequestsCounted
from services.waker.core.machine import IN_USE, Machine, StopAttempts
from services.waker.core.policy import (
    demand_for,
    has_demand,
    in_flight,
    is_drained,
    is_provider_healthy,
    is_released,
    keys_of,
    observe_error,
)
from services.waker.core.step import Step
from shared.messages.waker import ProviderCall

DRAIN_S = 60.0
"""A live gateway that does not let go of a machine within this time keeps it awake."""
COUNT_TIMEOUT_S = 5.0
RECOUNT_S = 1.0
COUNT_LIMIT = 3
"""An engine that does not respond to this many questions in a row counts as idle: it serves nobody."""
RECHECK_S = 10.0
"""The same while a ready machine has the alarm `IN_USE`, until its cause is over."""
STOP_RETRY_S = 1.0
STOP_LIMIT = 3
STARTING_S = 300.0
"""A machine that starts although it is to sleep can only be stopped once it is up. After this it is stopped anyway."""
BROKEN_RETRY_S = 60.0
"""Between two attempts to put a broken machine to sleep."""
BOUNCE_S = 1.0


def drain(step: Step, machine: Machine) -> None:
    """Return a draining machine to ready, or put it to sleep, once either is certain."""
    fleet = step.fleet
    if not machine.is_leaving:
        if in_flight(fleet, machine.id) or machine.last_used_at > machine.since:
            step.transition(machine, "ready", "used while it drained")
            return
        if has_demand(fleet, machine):
            machine = step.transition(machine, "ready", "needed while it drained")
            key_wakes.claim(step, machine, keys_of(fleet, demand_for(fleet, machine.spec.models)))
            return
        if (error := observe_error(fleet, machine)) is not None:
            step.transition(machine, "ready", f"its provider cannot be observed: {error}")
            return
    is_empty = is_drained(fleet, machine, step.now)
    if is_empty and (machine.is_leaving or is_provider_healthy(fleet, machine, step.now)):
        if not machine.spec.sleeps:
            return
        if machine.idle_check.passed or machine.operator.is_forced or machine.endpoint is None:
            hibernate(step, machine, machine.reason)
        else:
            step.count_requests(machine, COUNT_TIMEOUT_S)
        return
    if machine.idle_check != IdleCheck():
        # Whatever the engine said, it may be used again before it can be stopped.
        machine = step.put(replace(machine, idle_check=IdleCheck()))
    if step.now - machine.since > DRAIN_S and not machine.is_leaving:
        cause = "its provider was not tested or seen" if is_empty else "a gateway did not release it"
        step.transition(machine, "ready", f"{cause} within {DRAIN_S:g} s")


def apply_count(step: Step, event: RequestsCounted) -> None:
    """Keep a machine up whose engine runs requests: a gateway that is cut off from the bus relays them.

    A machine that leaves goes on draining until they have ended; any other serves again, with an alarm until gateways
    report as many.
    """
    machine = step.machines.get(event.machine)
    if machine is None or machine.idle_check.serial != event.serial:
        return
    if machine.state == "ready":
        is_over = event.answered and (event.running or 0) <= in_flight(step.fleet, machine.id)
        check = IdleCheck(next_at=step.now + RECHECK_S)
        step.put(replace(machine, idle_check=check, alarm="" if is_over else machine.alarm))
        return
    if event.running:
        if not machine.is_leaving:
            machine = step.transition(machine, "ready", f"{IN_USE}: {event.running}", alarm=IN_USE)
            step.put(replace(machine, idle_check=IdleCheck(next_at=step.now + RECHECK_S)))
            return
        alarm = IN_USE if step.now - machine.since > DRAIN_S else machine.alarm
        step.put(replace(machine, alarm=alarm, idle_check=IdleCheck(next_at=step.now + RECOUNT_S)))
        return
    failures = machine.idle_check.failures + 1
    passed = event.answered or failures >= COUNT_LIMIT
    if passed and event.running is None:
        step.journal(
            ProviderCall(
                at=step.now,
                machine=machine.id,
                call="count_requests",
                outcome="unknown",
                code=event.code,
                seconds=event.seconds,
            )
        )
    step.put(replace(machine, idle_check=IdleCheck(passed=passed, failures=failures, next_at=step.now + RECOUNT_S)))


def hibernate(step: Step, machine: Machine, reason: str) -> None:
    """Put a machine to sleep. A start call under way is awaited: a stop that overtook it would be lost."""
    stop = StopAttempts(retry_at=step.now)
    machine = step.transition(machine, "falling_asleep", reason, stop=stop)
    if machine.calls.pending is None:
        step.call_stop(machine, stop)


def apply_call(step: Step, machine: Machine, stop: StopAttempts, event: Called) -> None:
    """Apply the result of a stop call. Whatever it was, the next observation shows whether the machine sleeps."""
    policy = step.spec.observation_policy(machine.spec)
    if event.outcome == "accepted":
        step.put(replace(machine, stop=replace(stop, retry_at=step.now + policy.stuck_s)))
    elif event.outcome == "refused" and event.scope == "transient":
        # Its state was changing, which is no failed attempt.
        retry_at = step.now + max(policy.observe_fast_s, 1.0)
        step.put(replace(machine, stop=replace(stop, count=max(0, stop.count - 1), retry_at=retry_at)))
    else:
        alarm = event.reason or event.code if event.outcome == "refused" else machine.alarm
        retry_at = step.now + max(policy.observe_fast_s, STOP_RETRY_S)
        step.put(replace(machine, stop=replace(stop, retry_at=retry_at), alarm=alarm))


def advance(step: Step, machine: Machine, stop: StopAttempts) -> None:
    """Call stop again when that is due; a machine that still runs after the last call is broken."""
    if machine.calls.pending is not None or step.now < stop.retry_at:
        return
    is_starting = machine.observation is not None and machine.observation.power == "starting"
    if is_starting and step.now - machine.since < STARTING_S:
        return
    if stop.count < STOP_LIMIT:
        step.call_stop(machine, stop)
        return
    reason = f"it still runs after {STOP_LIMIT} attempts to end it"
    if machine.alarm:
        reason = f"{reason}: {machine.alarm}"
    step.transition(machine, "broken", reason, alarm=reason)


def apply_observation(step: Step, machine: Machine, observation: Observation) -> None:
    """Apply what the provider sees of a machine that is falling asleep or broken."""
    if observation.power in ("stopped", "error"):
        # The reason stays: it says why the machine sleeps. Why a broken one sleeps, its provider knows best.
        reason = (machine.state == "broken" and observation.reason) or machine.reason
        alarm = f"its provider says {observation.provider_state}" if observation.power == "error" else ""
        step.transition(machine, "asleep", reason, at=observation.ended_at, alarm=alarm)
        return
    stop = machine.stop
    if stop is None:  # it is broken already
        if observation.leaving:
            record_reclaim(step, machine, observation.leaving)
        return
    policy = step.spec.observation_policy(machine.spec)
    if observation.power == "stopping" and not stop.count:
        # Somebody, such as the previous leader, has called stop already: a second call would use force.
        step.put(replace(machine, stop=StopAttempts(count=1, retry_at=step.now + policy.stuck_s)))
    elif observation.power in ("running", "stopped_billed") and policy.settle_s:
        # It bounced back or has come up meanwhile: there is no use in waiting until it counts as stuck.
        step.put(replace(machine, stop=replace(stop, retry_at=min(stop.retry_at, step.now + BOUNCE_S))))


def record_reclaim(step: Step, machine: Machine, words: str) -> None:
    """Put the provider's words about a machine that it takes away in the place of what a probe got."""
    reason = reclaimed(words)
    if machine.reason != reason:
        step.journal(
            ProviderCall(at=step.now, machine=machine.id, call="notice", outcome="accepted", code=words, seconds=0.0)
        )
        step.put(replace(machine, reason=reason))


def reclaimed(words: str) -> str:
    return f"its provider reclaims it: {words}"


def retry_broken(step: Step, machine: Machine) -> None:
    """Try again to put a broken machine to sleep, for it may be billed.

    Perhaps only the waker cannot reach it: while gateways stream from it, it stays.
    """
    if (
        machine.spec.sleeps
        and step.now - machine.since >= BROKEN_RETRY_S
        and is_released(step.fleet, machine, step.now)
    ):
        reason = reclaimed(machine.leaving) if machine.leaving else "tried again to put it to sleep"
        hibernate(step, machine, reason)
