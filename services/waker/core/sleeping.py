"""From ready to asleep: the drain in two steps, the stop that is asked again, and what to do with what will not end."""

from typing import Any

from services.waker.core import key_wakes
from services.waker.core.events import Called, Observation
from services.waker.core.policy import demands, drained, in_flight, keys_of, trusted, unseen, wanted
from services.waker.core.state import Machine
from services.waker.core.step import Step

DRAIN_SECONDS = 60.0
"""A gateway that is alive and does not let go within this keeps the machine awake."""
STOP_RETRY_SECONDS = 1.0
STOP_LIMIT = 3
RISE_SECONDS = 300.0
"""What comes up while it is to sleep can only be stopped when it is there; longer than that it is asked anyway."""
BROKEN_SECONDS = 60.0
"""Between two attempts to put a broken machine to sleep."""
BOUNCE_SECONDS = 1.0


def drain(step: Step, machine: Machine) -> None:
    """Back to ready, or on to sleep, once that is certain."""
    fleet = step.fleet
    if not machine.lost:
        if in_flight(fleet, machine.id) or machine.last_used > machine.since:
            step.move(machine, "ready", "used while it drained")
            return
        if wanted(fleet, machine):
            machine = step.move(machine, "ready", "wanted while it drained")
            key_wakes.claim(step, machine, keys_of(fleet, demands(fleet, machine.spec.models)))
            return
        if fault := unseen(fleet, machine):
            step.move(machine, "ready", f"its provider cannot be seen: {fault}")
            return
    empty = drained(fleet, machine, step.now)
    if empty and (machine.lost or trusted(fleet, machine, step.now)):
        if machine.spec.sleeps:
            fall(step, machine, machine.reason)
    elif step.now - machine.since > DRAIN_SECONDS and not machine.lost:
        who = "its provider was not tested or seen" if empty else "a gateway did not let go of it"
        step.move(machine, "ready", f"{who} within {DRAIN_SECONDS:g} s")


def fall(step: Step, machine: Machine, reason: str, **changes: Any) -> None:
    """The provider is asked to put it to sleep. A start under way is awaited: a stop that overtook it would be lost."""
    machine = step.move(machine, "falling_asleep", reason, stops=0, stop_after=step.now, **changes)
    if machine.call is None:
        step.call(machine, "stop")


def called(step: Step, machine: Machine, event: Called) -> None:
    """The outcome of a stop. Whatever it was, the next look says whether it is so."""
    account = step.spec.observation_policy(machine.spec)
    if event.outcome == "accepted":
        step.set(machine, stop_after=step.now + account.stuck)
    elif event.outcome == "refused" and event.scope == "transient":
        # Its state was changing; that is no failed attempt.
        step.set(machine, stops=max(0, machine.stops - 1), stop_after=step.now + max(account.observe_fast_s, 1.0))
    else:
        alarm = event.reason or event.code if event.outcome == "refused" else machine.alarm
        step.set(machine, stop_after=step.now + max(account.observe_fast_s, STOP_RETRY_SECONDS), alarm=alarm)


def advance(step: Step, machine: Machine) -> None:
    """Ask again when it is time, at most so often."""
    if machine.call is not None or step.now < machine.stop_after:
        return
    rising = machine.observation is not None and machine.observation.power == "starting"
    if rising and step.now - machine.since < RISE_SECONDS:
        return
    if machine.stops < STOP_LIMIT:
        step.call(machine, "stop")
        return
    reason = f"it still runs after {STOP_LIMIT} attempts to end it"
    if machine.alarm:
        reason = f"{reason}: {machine.alarm}"
    step.move(machine, "broken", reason, alarm=reason)


def seen(step: Step, machine: Machine, observation: Observation) -> None:
    """The provider's view of a machine that is to sleep, or is broken."""
    if observation.power in ("stopped", "error"):
        # The reason stays: it says why it sleeps.
        alarm = f"its provider says {observation.provider_state}" if observation.power == "error" else ""
        step.move(machine, "asleep", machine.reason, at=observation.ended_at, stops=0, alarm=alarm)
        return
    if machine.state != "falling_asleep":
        return
    account = step.spec.observation_policy(machine.spec)
    if observation.power == "stopping" and not machine.stops:
        # Somebody has asked already, as the leader before us: a second word would be one of force.
        step.set(machine, stops=1, stop_after=step.now + account.stuck)
    elif observation.power in ("running", "stopped_billed") and account.settle:
        # It bounced back, or has come up meanwhile: no use in waiting until it counts as stuck.
        step.set(machine, stop_after=min(machine.stop_after, step.now + BOUNCE_SECONDS))


def mend(step: Step, machine: Machine) -> None:
    """A broken machine is tried again: it may bill."""
    if machine.spec.sleeps and step.now - machine.since >= BROKEN_SECONDS:
        fall(step, machine, "tried again to put it to sleep")
