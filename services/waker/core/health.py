"""Machines whose engines we cannot see die: the cloud's, and those that never sleep. They are asked now and then."""

from services.waker.core import waking
from services.waker.core.events import Probed
from services.waker.core.policy import demands, revivable, wanted
from services.waker.core.state import Machine
from services.waker.core.step import Step
from services.waker.core.unready import may_retell
from shared.messages.waker import ProviderCall

WATCH_SECONDS = 10.0
"""Between two probes of a machine that answers."""
BACK_OFF_SECONDS = 30.0
"""The longest between two probes of one that does not."""
WANTED_SECONDS = 1.0
"""While somebody waits for it."""
FAULTS = 3
"""Probes in a row that fail before the engine counts as dead."""


def advance(step: Step, machine: Machine) -> None:
    reachable = step.spec.observation_policy(machine.spec).reachable
    if not reachable or machine.state in ("waking", "falling_asleep", "asleep", "gone"):
        return
    if not machine.spec.sleeps and not machine.spec.models:
        if machine.state is None:
            step.move(machine, "broken", f"no model's lineup names its tier {machine.spec.tier}")
        return
    if machine.state is None and machine.spec.sleeps:
        return  # its provider has the first word
    if machine.state == "broken" and machine.stops and not _wanted_back(step, machine):
        return  # it is broken because it does not end
    step.probe(machine)


def _wanted_back(step: Step, machine: Machine) -> bool:
    return revivable(step.fleet, machine) and wanted(step.fleet, machine)


def probed(step: Step, machine: Machine, event: Probed) -> None:
    if not event.answered:
        _fault(step, machine, event)
    elif machine.state in ("ready", "draining"):
        step.set(machine, reached=True, probe_failures=0, probe_after=step.now + WATCH_SECONDS)
    elif event.step == "reach":
        step.set(machine, reached=True, probe_after=step.now)  # that it listens does not make it fit
    elif machine.state in (None, "broken"):
        waking.answered(step, step.set(machine, stops=0, probe_after=step.now + WATCH_SECONDS), event)


def _fault(step: Step, machine: Machine, event: Probed) -> None:
    failures = machine.probe_failures + 1
    pause = min(step.spec.probe_interval * 2.0 ** min(failures, 16), BACK_OFF_SECONDS)
    if demands(step.fleet, machine.spec.models):
        pause = min(pause, WANTED_SECONDS)
    machine = step.set(
        machine, probe_failures=failures, probe_code=event.code, probe_after=step.now + pause, reached=False
    )
    reason = f"its endpoint {event.wrong}" if event.wrong else f"{_unfit(event)}: {event.code}"
    if machine.state != "broken":
        if failures >= FAULTS:
            _tell_failure(step, event)
            machine = step.move(machine, "broken", reason, alarm=reason, endpoint=machine.endpoint)
            step.set(machine, retold_at=step.now)
    elif not machine.stops and may_retell(step, machine, reason):
        _tell_failure(step, event)
        step.set(machine, reason=reason, alarm=reason, retold_at=step.now)


def _unfit(event: Probed) -> str:
    return "does not answer" if event.step == "reach" else "its engine is up, and does not do what its model is for"


def _tell_failure(step: Step, event: Probed) -> None:
    code = event.wrong or event.code
    step.told(
        ProviderCall(
            at=step.now, machine=event.machine, call="probe", outcome="failed", code=code, seconds=event.seconds
        )
    )
