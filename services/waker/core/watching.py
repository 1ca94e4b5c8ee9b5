"""Machines whose engines we cannot see die: the cloud's, and those that never sleep. They are asked now and then."""

from services.waker.core import waking
from services.waker.core.events import Probed
from services.waker.core.policy import demands, revivable, wanted
from services.waker.core.state import Machine
from services.waker.core.turn import Turn
from shared.messages.waker import ProviderCall

WATCH_SECONDS = 10.0
"""Between two probes of a machine that answers."""
BACK_OFF_SECONDS = 30.0
"""The longest between two probes of one that does not."""
WANTED_SECONDS = 1.0
"""While somebody waits for it."""
FAULTS = 3
"""Probes in a row that fail before the engine counts as dead."""


def advance(turn: Turn, machine: Machine) -> None:
    reachable = turn.plan.account(machine.plan).reachable
    if not reachable or machine.state in ("waking", "falling_asleep", "asleep", "gone"):
        return
    if not machine.plan.sleeps and not machine.plan.models:
        if machine.state is None:
            turn.move(machine, "broken", f"no model's lineup names its tier {machine.plan.tier}")
        return
    if machine.state is None and machine.plan.sleeps:
        return  # its provider has the first word
    if machine.state == "broken" and machine.stops and not _wanted_back(turn, machine):
        return  # it is broken because it does not end
    turn.probe(machine)


def _wanted_back(turn: Turn, machine: Machine) -> bool:
    return revivable(turn.fleet, machine) and wanted(turn.fleet, machine)


def probed(turn: Turn, machine: Machine, event: Probed) -> None:
    if not event.answered:
        _fault(turn, machine, event)
    elif machine.state in ("ready", "draining"):
        turn.set(machine, reached=True, probe_failures=0, probe_after=turn.now + WATCH_SECONDS)
    elif event.step == "reach":
        turn.set(machine, reached=True, probe_failures=0, probe_after=turn.now)
    elif machine.state in (None, "broken"):
        waking.answered(turn, turn.set(machine, stops=0, probe_after=turn.now + WATCH_SECONDS), event)


def _fault(turn: Turn, machine: Machine, event: Probed) -> None:
    failures = machine.probe_failures + 1
    pause = min(turn.plan.probe_interval * 2.0 ** min(failures, 16), BACK_OFF_SECONDS)
    if demands(turn.fleet, machine.plan.models):
        pause = min(pause, WANTED_SECONDS)
    machine = turn.set(
        machine, probe_failures=failures, probe_code=event.code, probe_after=turn.now + pause, reached=False
    )
    if failures >= FAULTS and machine.state != "broken":
        turn.told(
            ProviderCall(
                at=turn.now,
                machine=machine.id,
                call="probe",
                outcome="failed",
                code=event.code,
                seconds=event.seconds,
            )
        )
        reason = f"its endpoint {event.wrong}" if event.wrong else f"does not answer: {event.code}"
        turn.move(machine, "broken", reason, alarm=reason, endpoint=machine.endpoint)
