"""Machines whose engines the waker cannot see die: those of clouds, and those that never sleep. They are probed."""

from dataclasses import replace

from services.waker.core import waking
from services.waker.core.events import Probed
from services.waker.core.machine import Machine
from services.waker.core.policy import demand_for, has_demand, is_revivable
from services.waker.core.step import Step
from services.waker.core.unready import may_update_reason
from shared.messages.waker import ProviderCall

PROBE_EVERY_S = 10.0
"""Between two probes of a machine that responds."""
BACK_OFF_S = 30.0
"""The longest time between two probes of one that does not."""
DEMANDED_S = 1.0
"""The same while requests wait for it."""
FAILURE_LIMIT = 3
"""Probes in a row that fail before the engine counts as dead."""


def advance(step: Step, machine: Machine) -> None:
    """Probe the machine if that is due and its engine might respond."""
    is_remote = step.spec.observation_policy(machine.spec).is_remote
    if not is_remote or machine.state in ("waking", "falling_asleep", "asleep", "gone"):
        return
    if not machine.spec.sleeps and not machine.spec.models:
        if machine.state is None:
            step.transition(machine, "broken", f"no model's lineup names its tier {machine.spec.tier}")
        return
    if machine.state is None and machine.spec.sleeps:
        return  # its provider has the first word
    if machine.is_stuck and not (is_revivable(step.fleet, machine) and has_demand(step.fleet, machine)):
        return
    step.send_probe(machine)


def apply_probe(step: Step, machine: Machine, event: Probed) -> None:
    """Apply the result of a probe."""
    probe = machine.probe
    if not event.answered:
        _apply_failure(step, machine, event)
    elif machine.state in ("ready", "draining"):
        probe = replace(probe, is_reachable=True, failures=0, next_at=step.now + PROBE_EVERY_S)
        step.put(replace(machine, probe=probe))
    elif event.step == "reach":
        # That it listens does not show that it works.
        step.put(replace(machine, probe=replace(probe, is_reachable=True, next_at=step.now)))
    elif machine.state in (None, "broken"):
        machine = step.put(replace(machine, probe=replace(probe, next_at=step.now + PROBE_EVERY_S)))
        waking.become_ready(step, machine, event)


def _apply_failure(step: Step, machine: Machine, event: Probed) -> None:
    failures = machine.probe.failures + 1
    pause_s = min(step.spec.probe_interval_s * 2.0 ** min(failures, 16), BACK_OFF_S)
    if demand_for(step.fleet, machine.spec.models):
        pause_s = min(pause_s, DEMANDED_S)
    probe = replace(machine.probe, failures=failures, error=event.code, next_at=step.now + pause_s, is_reachable=False)
    machine = step.put(replace(machine, probe=probe))
    reason = f"its endpoint {event.mismatch}" if event.mismatch else f"{_symptom(event)}: {event.code}"
    if machine.state != "broken":
        if failures >= FAILURE_LIMIT:
            _journal_failure(step, event)
            endpoint = machine.endpoint
            machine = step.transition(machine, "broken", reason, alarm=reason)
            # Its endpoint stays, for it goes on being probed.
            step.put(replace(machine, endpoint=endpoint, probe=replace(machine.probe, reported_at=step.now)))
    elif not machine.is_stuck and not machine.leaving and may_update_reason(step, machine, reason):
        _journal_failure(step, event)
        step.put(replace(machine, reason=reason, alarm=reason, probe=replace(probe, reported_at=step.now)))


def _symptom(event: Probed) -> str:
    return "does not answer" if event.step == "reach" else "its engine is up, but does not do what its model is for"


def _journal_failure(step: Step, event: Probed) -> None:
    code = event.mismatch or event.code
    step.journal(
        ProviderCall(
            at=step.now, machine=event.machine, call="probe", outcome="failed", code=code, seconds=event.seconds
        )
    )
