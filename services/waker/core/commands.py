"""The operator's word: it stands until the next one."""

from services.waker.core import sleeping, unready
from services.waker.core.events import Order
from services.waker.core.state import Machine
from services.waker.core.step import Turn
from shared.messages.waker import Ordered

REASON = "the operator's word"


def given(turn: Turn, order: Order) -> None:
    """Of a model or machine that exists; any other is refused before it comes here."""
    turn.told(Ordered(at=turn.now, machine=order.target, order=order.order, by=order.by))
    if order.order == "wake":
        if order.target not in turn.orders:
            turn.orders = (*turn.orders, order.target)
        unready.forgive(turn, order.target)
        return
    machine = turn.machines[order.target]
    match order.order:
        case "hibernate":
            _hibernate(turn, machine)
        case "cordon":
            machine = turn.set(machine, cordoned=True, kept=False)
            if machine.state == "waking" and machine.plan.sleeps:
                sleeping.fall(turn, machine, "the operator keeps it from requests")
        case "uncordon":
            machine = turn.set(machine, cordoned=False)
            if machine.state == "draining" and not machine.lost:
                turn.move(machine, "ready", REASON)


def _hibernate(turn: Turn, machine: Machine) -> None:
    """Also what an earlier `wake` wanted is withdrawn."""
    turn.orders = tuple(model for model in turn.orders if model not in machine.plan.models)
    machine = turn.set(machine, kept=False)
    match machine.state:
        case "waking" | "broken":
            sleeping.fall(turn, machine, REASON)
        case "ready":
            turn.move(machine, "draining", REASON, put_down=True)
        case "draining":
            turn.set(machine, put_down=True)
        case _:
            pass


def served(turn: Turn) -> None:
    """A machine that is ready and serves an ordered model is kept awake for it."""
    for model in turn.orders:
        for name in turn.plan.lineups[model]:
            machine = turn.machines[name]
            if machine.state == "ready" and not machine.lost and machine.plan.tier not in turn.closed:
                turn.set(machine, kept=machine.plan.sleeps)
                turn.orders = tuple(other for other in turn.orders if other != model)
                break
