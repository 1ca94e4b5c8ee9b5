"""Machines whose engines we cannot see die: the cloud's, and those that never sleep. They are asked now and then."""

from services.waker.core import waking
from services.waker.core.events import Probed
from services.waker.core.policy import demands, revivable, wanted
from services.waker.core.state import Machine
from services.waker.core.step import Turn
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
        turn.set(machine, reached=True, probe_after=turn.now)  # that it listens does not make it fit
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
    reason = f"its endpoint {event.wrong}" if event.wrong else f"{_unfit(event)}: {event.code}"
    if machine.state != "broken":
        if failures >= FAULTS:
            _tell_failure(turn, event)
            machine = turn.move(machine, "broken", reason, alarm=reason, endpoint=machine.endpoint)
            turn.set(machine, retold_at=turn.now)
    elif not machine.stops and may_retell(turn, machine, reason):
        _tell_failure(turn, event)
        turn.set(machine, reason=reason, alarm=reason, retold_at=turn.now)


def _unfit(event: Probed) -> str:
    return "does not answer" if event.step == "reach" else "its engine is up, and does not do what its model is for"


def _tell_failure(turn: Turn, event: Probed) -> None:
    code = event.wrong or event.code
    turn.told(
        ProviderCall(
            at=turn.now, machine=event.machine, call="probe", outcome="failed", code=code, seconds=event.seconds
        )
    )
