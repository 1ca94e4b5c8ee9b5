"""What a provider reports is right, whatever the waker thought: it is taken over into the fleet."""

from dataclasses import replace

from services.waker.core import sleeping, waking
from services.waker.core.events import Observation, Observed, Orphan, Tested
from services.waker.core.fleet_spec import MachineSpec
from services.waker.core.machine import Machine
from services.waker.core.policy import pair_mates
from services.waker.core.provider_view import ProviderView
from services.waker.core.removals import is_removed_released
from services.waker.core.state import ProviderHealth
from services.waker.core.step import Step

UNTESTED = "it is not put to sleep, since its provider's self-test failed: "
"""How the alarm of such a machine begins."""
ALARM_LENGTH = 500
NOT_FOUND_S = 60.0
"""A provider may forget a machine for a moment: only after this time is it gone. One never seen is gone at once."""
ORPHANED = "it carries the fleet's mark and is not configured"


def apply(step: Step, event: Observed) -> None:
    """Apply an observation of all machines of a provider."""
    health = step.provider_health.get(event.provider, ProviderHealth())
    if event.requested_at >= health.observe_sent_at:
        health = replace(health, is_observing=False)
    health = replace(health, observe_error=event.error)
    if event.error is not None:
        step.provider_health[event.provider] = health
        return
    observed_at = max(health.observed_at, min(event.requested_at, step.now))
    step.provider_health[event.provider] = replace(health, observed_at=observed_at)
    for name, observation in event.observations.items():
        machine = step.machines.get(name)
        if machine is not None and _is_conclusive(step, machine, observation, event.requested_at):
            _apply_observation(step, _with_request(machine, event.requested_at), observation)
    for orphan in () if step.fleet.is_outdated else event.orphans:
        _apply_orphan(step, orphan, event.requested_at)
    listed = {orphan.id for orphan in event.orphans}
    for machine in list(step.machines.values()):
        if not machine.spec.configured and machine.spec.provider == event.provider and machine.id not in listed:
            _apply_observation(step, machine, Observation(power="not_found", provider_state="not listed"))


def _with_request(machine: Machine, requested_at: float) -> Machine:
    return replace(machine, view=replace(machine.view, requested_at=requested_at))


def _is_conclusive(step: Step, machine: Machine, observation: Observation, requested_at: float) -> bool:
    """Whether an observation proves anything: not if it is from before the last call, or too soon after it."""
    if machine.calls.pending is not None or requested_at <= max(machine.calls.ended_at, machine.view.requested_at):
        return False
    known = machine.observation
    # For a new leader, a machine that was being woken was off before.
    is_unchanged = not observation.is_active if known is None else observation.power == known.power
    settle_s = step.spec.observation_policy(machine.spec).settle_s
    if settle_s and is_unchanged and machine.state in ("waking", "falling_asleep"):
        return requested_at - machine.calls.ended_at > settle_s
    return requested_at > machine.since or known is None


def _apply_observation(step: Step, machine: Machine, observation: Observation) -> None:
    """Apply what a provider reports of one machine."""
    view = replace(machine.view, observation=observation)
    if observation.power == "not_found":
        _apply_not_found(step, step.put(replace(machine, view=view)), observation)
        return
    machine = step.put(replace(machine, view=replace(view, not_found_since=None)))
    match machine.state:
        case "waking":
            waking.apply_observation(step, machine, observation)
        case "ready" | "draining":
            _apply_to_awake(step, machine, observation)
        case "falling_asleep" | "broken":
            sleeping.apply_observation(step, machine, observation)
        case "asleep" | "gone" | None:
            _apply_to_asleep(step, machine, observation)


def _apply_to_awake(step: Step, machine: Machine, observation: Observation) -> None:
    is_other_engine = observation.generation is not None and observation.generation != machine.generation
    if observation.power == "stopped_billed":
        _hibernate_billed(step, machine)
    elif observation.power != "running" or is_other_engine:
        reason = observation.reason or f"its provider says {observation.provider_state}, which this suite did not cause"
        step.transition(machine, "asleep", reason, at=observation.ended_at)
    elif observation.leaving and machine.state == "ready":
        step.transition(machine, "draining", sleeping.reclaimed(observation.leaving))


def _apply_to_asleep(step: Step, machine: Machine, observation: Observation) -> None:
    if observation.power in ("starting", "running"):
        mates = pair_mates(step.fleet, machine)
        mate = next((m for m in mates if m.state in ("waking", "ready", "draining")), None)
        if mate is not None and machine.state != "gone":
            # It runs without our doing, on GPUs that its mate uses.
            machine = step.transition(machine, "broken", f"it runs while {mate.id} has the GPUs of their pair")
            sleeping.hibernate(step, machine, f"{mate.id} has the GPUs of their pair")
        else:
            waking.take_over(step, machine, observation)
    elif observation.power == "stopped_billed" and machine.state != "gone":
        _hibernate_billed(step, machine)
    elif machine.state is None:
        step.transition(machine, "asleep", "seen for the first time")
    elif machine.state == "gone":
        step.transition(machine, "asleep", "its provider knows it again")


def _hibernate_billed(step: Step, machine: Machine) -> None:
    """Put a machine to sleep properly that is off and billed in full."""
    machine = step.transition(machine, "broken", "it is off and billed in full")
    sleeping.hibernate(step, machine, "off and billed in full: it has to come up to be hibernated")


def _apply_not_found(step: Step, machine: Machine, observation: Observation) -> None:
    since = step.now if machine.view.not_found_since is None else machine.view.not_found_since
    machine = step.put(replace(machine, view=replace(machine.view, not_found_since=since)))
    is_new = machine.state is None
    if machine.state != "gone" and (is_new or step.now - since >= NOT_FOUND_S):
        reason = observation.reason or "its provider does not know it"
        machine = replace(machine, calls=replace(machine.calls, pending=None))
        step.transition(machine, "gone", reason, alarm=f"{reason}: fix or remove its `instance`")


def _apply_orphan(step: Step, orphan: Orphan, requested_at: float) -> None:
    """Put an orphan to sleep: it may be billed, and nobody uses it. It may be one of the machines just removed."""
    machine = step.machines.get(orphan.id)
    view = ProviderView(observation=orphan.observation, requested_at=requested_at)
    if machine is None:
        if orphan.observation.power in ("stopped", "stopping", "error", "not_found"):
            return
        if not is_removed_released(step.fleet, step.now):
            return
        machine = Machine(spec=_orphan_spec(orphan), since=step.now, view=view)
        machine = step.transition(machine, "broken", ORPHANED)
        sleeping.hibernate(step, machine, ORPHANED)
    elif not _is_conclusive(step, machine, orphan.observation, requested_at):
        return
    elif machine.state in ("asleep", "gone") and orphan.observation.power in ("starting", "running", "stopped_billed"):
        machine = replace(machine, view=view)
        if machine.state == "gone":
            machine = step.transition(machine, "asleep", "its provider knows it again")
        machine = step.transition(machine, "broken", "it runs again, and is not configured")
        sleeping.hibernate(step, machine, "it runs again, and is not configured")
    else:
        _apply_observation(step, _with_request(machine, requested_at), orphan.observation)


def _orphan_spec(orphan: Orphan) -> MachineSpec:
    return MachineSpec(
        id=orphan.id,
        tier="",
        provider=orphan.provider,
        room=0,
        models=(),
        served_as="",
        endpoint=None,
        configured=False,
    )


def apply_self_test(step: Step, event: Tested) -> None:
    """Apply a self-test: its faults are the alarm of each machine of the provider that has no other."""
    health = step.provider_health.get(event.provider, ProviderHealth())
    step.provider_health[event.provider] = replace(
        health, is_testing=False, passed_test=not event.faults, test_faults=event.faults
    )
    alarm = f"{UNTESTED}{'; '.join(event.faults)}"[:ALARM_LENGTH] if event.faults else ""
    for machine in list(step.machines.values()):
        if machine.spec.provider == event.provider and (not machine.alarm or machine.alarm.startswith(UNTESTED)):
            step.put(replace(machine, alarm=alarm))
