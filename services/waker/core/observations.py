"""What a provider sees, taken over: it is right, whatever we thought."""

from dataclasses import replace

from services.waker.core import sleeping, waking
from services.waker.core.events import Observation, Observed, Orphan, Tested
from services.waker.core.fleet_spec import MachineSpec
from services.waker.core.policy import mates
from services.waker.core.state import Machine, ProviderHealth
from services.waker.core.step import Step

AWAKE = "it is not put to sleep, since its provider's self-test failed: "
ALARM_LENGTH = 500
GONE_SECONDS = 60.0
"""A provider may forget a machine for a moment: only then it is gone. One that was never seen is at once."""


def apply(step: Step, event: Observed) -> None:
    account = step.provider_health.get(event.provider, ProviderHealth())
    if event.asked_at >= account.asked_at:
        account = replace(account, looking=False)
    step.provider_health[event.provider] = replace(account, fault=event.fault)
    if event.fault:
        return
    step.provider_health[event.provider] = replace(
        account, fault="", looked_at=max(account.looked_at, min(event.asked_at, step.now))
    )
    for name, observation in event.observations.items():
        machine = step.machines.get(name)
        if machine is not None and _is_conclusive(step, machine, observation, event.asked_at):
            apply_observation(step, step.set(machine, seen_at=event.asked_at), observation)
    for orphan in event.orphans:
        _apply_orphan(step, orphan, event.asked_at)
    listed = {orphan.id for orphan in event.orphans}
    for machine in list(step.machines.values()):
        if not machine.spec.configured and machine.spec.provider == event.provider and machine.id not in listed:
            apply_observation(step, machine, Observation(power="not_found", provider_state="not listed"))


def _is_conclusive(step: Step, machine: Machine, observation: Observation, asked_at: float) -> bool:
    """A look from before the last call, or too soon after it to show what that did, proves nothing."""
    if machine.call is not None or asked_at <= max(machine.called_at, machine.seen_at):
        return False
    # For a new leader, a machine that was being woken is one that was off.
    unchanged = observation.power == machine.observation.power if machine.observation else not observation.running
    settle = step.spec.observation_policy(machine.spec).settle
    if settle and unchanged and machine.state in ("waking", "falling_asleep"):
        return asked_at - machine.called_at > settle
    return asked_at > machine.since or machine.observation is None


def apply_observation(step: Step, machine: Machine, observation: Observation) -> None:
    """One machine, as its provider sees it."""
    machine = step.set(machine, observation=observation)
    if observation.power == "not_found":
        _gone(step, machine, observation)
        return
    machine = step.set(machine, gone_since=None)
    match machine.state:
        case "waking":
            waking.seen(step, machine, observation)
        case "ready" | "draining":
            _awake(step, machine, observation)
        case "falling_asleep" | "broken":
            sleeping.seen(step, machine, observation)
        case "asleep" | "gone" | None:
            _asleep(step, machine, observation)


def _awake(step: Step, machine: Machine, observation: Observation) -> None:
    other = observation.generation is not None and observation.generation != machine.generation
    if observation.power == "stopped_billed":
        _halted(step, machine)
    elif observation.power != "running" or other:
        step.move(machine, "asleep", observation.reason or _unexpected(observation), at=observation.ended_at)
    elif observation.leaving and machine.state == "ready":
        step.move(machine, "draining", f"its provider takes it away: {observation.leaving}")


def _unexpected(observation: Observation) -> str:
    return f"its provider says {observation.provider_state}, which is not our doing"


def _asleep(step: Step, machine: Machine, observation: Observation) -> None:
    if observation.power in ("starting", "running"):
        mate = next((m for m in mates(step.fleet, machine) if m.state in ("waking", "ready", "draining")), None)
        if mate is not None and machine.state != "gone":
            _beside(step, machine, mate)
        else:
            waking.take_over(step, machine, observation)
    elif observation.power == "stopped_billed" and machine.state != "gone":
        _halted(step, machine)
    elif machine.state is None:
        step.move(machine, "asleep", "seen for the first time")
    elif machine.state == "gone":
        step.move(machine, "asleep", "its provider knows it again")


def _beside(step: Step, machine: Machine, mate: Machine) -> None:
    """It runs without our doing, on GPUs that another has."""
    machine = step.move(machine, "broken", f"it runs while {mate.id} has the GPUs of their pair")
    sleeping.fall(step, machine, f"{mate.id} has the GPUs of their pair")


def _halted(step: Step, machine: Machine) -> None:
    """Off, and billed in full: put to sleep properly at once."""
    machine = step.move(machine, "broken", "it is off and billed in full")
    sleeping.fall(step, machine, "off and billed in full: it has to come up to be hibernated")


def _gone(step: Step, machine: Machine, observation: Observation) -> None:
    since = step.now if machine.gone_since is None else machine.gone_since
    step.set(machine, gone_since=since)
    never_seen = machine.state is None
    if machine.state != "gone" and (never_seen or step.now - since >= GONE_SECONDS):
        reason = observation.reason or "its provider does not know it"
        step.move(machine, "gone", reason, alarm=f"{reason}: mend or remove its `instance`", call=None)


def _apply_orphan(step: Step, orphan: Orphan, asked_at: float) -> None:
    """It carries our mark and nobody configured it: it may bill, and nobody uses it."""
    machine = step.machines.get(orphan.id)
    if machine is None:
        if orphan.observation.power in ("stopped", "stopping", "error", "not_found"):
            return
        spec = MachineSpec(
            id=orphan.id,
            tier="",
            provider=orphan.provider,
            room=0,
            models=(),
            served_as="",
            endpoint=None,
            configured=False,
        )
        machine = step.set(Machine(spec=spec, since=step.now, observation=orphan.observation, seen_at=asked_at))
        machine = step.move(machine, "broken", "it carries the fleet's mark and is not configured")
        sleeping.fall(step, machine, "it carries the fleet's mark and is not configured")
    elif not _is_conclusive(step, machine, orphan.observation, asked_at):
        return
    elif machine.state in ("asleep", "gone") and orphan.observation.power in (
        "starting",
        "running",
        "stopped_billed",
    ):
        machine = step.set(machine, observation=orphan.observation, seen_at=asked_at, gone_since=None)
        if machine.state == "gone":
            machine = step.move(machine, "asleep", "its provider knows it again")
        machine = step.move(machine, "broken", "it runs again, and is not configured")
        sleeping.fall(step, machine, "it runs again, and is not configured")
    else:
        apply_observation(step, step.set(machine, seen_at=asked_at), orphan.observation)


def apply_self_test(step: Step, event: Tested) -> None:
    account = step.provider_health.get(event.provider, ProviderHealth())
    step.provider_health[event.provider] = replace(
        account, testing=False, tested=not event.faults, test_faults=event.faults
    )
    alarm = f"{AWAKE}{'; '.join(event.faults)}"[:ALARM_LENGTH] if event.faults else ""
    for machine in list(step.machines.values()):
        if machine.spec.provider == event.provider and (not machine.alarm or machine.alarm.startswith(AWAKE)):
            step.set(machine, alarm=alarm)
