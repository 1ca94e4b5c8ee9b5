"""Who is brought up for whom: a lineup is walked, hedged and tried again within a wake's deadline."""

from services.waker.core import commands, key_wakes, waking
from services.waker.core.policy import (
    candidate,
    demands,
    hedge_due,
    in_the_way,
    keys_of,
    lineup,
    needs_another,
    to_be_warm,
)
from services.waker.core.state import Machine, Wake, Wanted
from services.waker.core.step import Turn

AT_ONCE = 2
"""Machines that one wake brings up at the same time: the first, and one beside it when time grows short."""


def bring_up(turn: Turn) -> None:
    """For every model that is wanted and has no machine with room; then for tiers that are to be warm."""
    commands.served(turn)
    for model in _longest_wanted_first(turn):
        _settle(turn, model)
        levels = demands(turn.fleet, [model])
        if not levels and model not in turn.orders:
            continue
        wake = turn.wakes.get(model)
        rising = _rising(turn, model)
        if not rising and needs_another(turn.fleet, model, levels):
            _try_next(turn, model, wake, levels)
        elif wake is not None and 0 < len(rising) < AT_ONCE:
            _hedge(turn, model, wake)
    for tier in turn.plan.idle:
        _warm(turn, tier)


def _longest_wanted_first(turn: Turn) -> list[str]:
    """All models: two that want the same pair take turns."""
    waited = [model for (model, _), level in turn.demand.items() if level.request.waiting > 0]
    return list(dict.fromkeys([*waited, *turn.plan.lineups]))


def _rising(turn: Turn, model: str) -> list[Machine]:
    return [machine for machine in lineup(turn.fleet, model) if machine.state == "waking"]


def _settle(turn: Turn, model: str) -> None:
    """A wake is over when it has a machine, or nobody wants it any more, or its time is up; losers go to sleep."""
    wake = turn.wakes.get(model)
    if wake is None:
        return
    own = [m for name in turn.plan.lineups[model] if (m := turn.machines[name]).wake_id == wake.id]
    winner = next((m for m in own if m.state == "ready"), None)
    if winner is not None:
        for machine in own:
            if machine.state == "waking":
                waking.superseded(turn, machine, winner)
    nobody = not demands(turn.fleet, [model]) and model not in turn.orders
    over = winner is not None or nobody or turn.now >= wake.deadline
    if over and not any(turn.machines[m.id].state == "waking" for m in own):
        del turn.wakes[model]


def _try_next(turn: Turn, model: str, wake: Wake | None, levels: list[Wanted]) -> None:
    machine = candidate(turn.fleet, turn.plan.lineups[model], wake.id if wake else "", turn.now)
    if machine is None:
        mate = in_the_way(turn.fleet, turn.plan.lineups[model], wake.id if wake else "", turn.now)
        if mate is not None:
            turn.move(mate, "draining", f"its pair is wanted for {model}")
        return
    if wake is None:
        wake = Wake(turn.plan.new_id(turn.now), turn.now + turn.plan.wake_cap, keys_of(turn.fleet, levels))
        key_wakes.count(turn, wake.keys)
        turn.wakes[model] = wake
    waking.begin(turn, machine, wake, f"requests wait for {model}" if levels else f"the operator wants {model}")


def _hedge(turn: Turn, model: str, wake: Wake) -> None:
    """A local engine gains nothing from a second one beside it."""
    machine = candidate(turn.fleet, turn.plan.lineups[model], wake.id, turn.now)
    if machine is None or not turn.plan.account(machine.plan).reachable:
        return
    if hedge_due(turn.fleet, machine, wake.deadline, turn.now):
        waking.begin(turn, machine, wake, f"requests wait for {model}, and the first machine may come too late")


def _warm(turn: Turn, tier: str) -> None:
    if not to_be_warm(turn.fleet, tier, turn.now):
        return
    names = [m.id for m in turn.machines.values() if m.plan.tier == tier and m.plan.models]
    machine = candidate(turn.fleet, names, "", turn.now)
    if machine is not None:
        wake = Wake(turn.plan.new_id(turn.now), turn.now + turn.plan.wake_cap)
        waking.begin(turn, machine, wake, "a schedule or the usual pattern of use wants it awake")
