"""The operator's word: it stands until the next one."""

from services.waker.core import sleeping, unready
from services.waker.core.events import Command
from services.waker.core.state import Machine
from services.waker.core.step import Step
from shared.messages.waker import CommandIssued

REASON = "the operator's word"


def given(step: Step, order: Command) -> None:
    """Of a model or machine that exists; any other is refused before it comes here."""
    step.told(CommandIssued(at=step.now, machine=order.target, order=order.order, by=order.by))
    if order.order == "wake":
        if order.target not in step.orders:
            step.orders = (*step.orders, order.target)
        unready.forgive(step, order.target)
        return
    machine = step.machines[order.target]
    match order.order:
        case "hibernate":
            _hibernate(step, machine)
        case "cordon":
            machine = step.set(machine, cordoned=True, kept=False)
            if machine.state == "waking" and machine.spec.sleeps:
                sleeping.fall(step, machine, "the operator keeps it from requests")
        case "uncordon":
            machine = step.set(machine, cordoned=False)
            if machine.state == "draining" and not machine.lost:
                step.move(machine, "ready", REASON)


def _hibernate(step: Step, machine: Machine) -> None:
    """Also what an earlier `wake` wanted is withdrawn."""
    step.orders = tuple(model for model in step.orders if model not in machine.spec.models)
    machine = step.set(machine, kept=False)
    match machine.state:
        case "waking" | "broken":
            sleeping.fall(step, machine, REASON)
        case "ready":
            step.move(machine, "draining", REASON, put_down=True)
        case "draining":
            step.set(machine, put_down=True)
        case _:
            pass


def served(step: Step) -> None:
    """A machine that is ready and serves an ordered model is kept awake for it."""
    for model in step.orders:
        for name in step.spec.lineups[model]:
            machine = step.machines[name]
            if machine.state == "ready" and not machine.lost and machine.spec.tier not in step.closed:
                step.set(machine, kept=machine.spec.sleeps)
                step.orders = tuple(other for other in step.orders if other != model)
                break
