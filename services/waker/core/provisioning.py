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
from services.waker.core.state import DemandLevel, Machine, Wake
from services.waker.core.step import Step

AT_ONCE = 2
"""Machines that one wake brings up at the same time: the first, and one beside it when time grows short."""


def bring_up(step: Step) -> None:
    """For every model that is wanted and has no machine with room; then for tiers that are to be warm."""
    commands.served(step)
    for model in _longest_wanted_first(step):
        _settle(step, model)
        levels = demands(step.fleet, [model])
        if not levels and model not in step.orders:
            continue
        wake = step.wakes.get(model)
        rising = _rising(step, model)
        if not rising and needs_another(step.fleet, model, levels):
            _try_next(step, model, wake, levels)
        elif wake is not None and 0 < len(rising) < AT_ONCE:
            _hedge(step, model, wake)
    for tier in step.spec.idle:
        _warm(step, tier)


def _longest_wanted_first(step: Step) -> list[str]:
    """All models: two that want the same pair take turns."""
    waited = [model for (model, _), level in step.demand.items() if level.request.waiting > 0]
    return list(dict.fromkeys([*waited, *step.spec.lineups]))


def _rising(step: Step, model: str) -> list[Machine]:
    return [machine for machine in lineup(step.fleet, model) if machine.state == "waking"]


def _settle(step: Step, model: str) -> None:
    """A wake is over when it has a machine, or nobody wants it any more, or its time is up; losers go to sleep."""
    wake = step.wakes.get(model)
    if wake is None:
        return
    own = [m for name in step.spec.lineups[model] if (m := step.machines[name]).wake_id == wake.id]
    winner = next((m for m in own if m.state == "ready"), None)
    if winner is not None:
        for machine in own:
            if machine.state == "waking":
                waking.superseded(step, machine, winner)
    nobody = not demands(step.fleet, [model]) and model not in step.orders
    over = winner is not None or nobody or step.now >= wake.deadline
    if over and not any(step.machines[m.id].state == "waking" for m in own):
        del step.wakes[model]


def _try_next(step: Step, model: str, wake: Wake | None, levels: list[DemandLevel]) -> None:
    machine = candidate(step.fleet, step.spec.lineups[model], wake.id if wake else "", step.now)
    if machine is None:
        mate = in_the_way(step.fleet, step.spec.lineups[model], wake.id if wake else "", step.now)
        if mate is not None:
            step.move(mate, "draining", f"its pair is wanted for {model}")
        return
    if wake is None:
        wake = Wake(step.spec.new_id(step.now), step.now + step.spec.wake_cap, keys_of(step.fleet, levels))
        key_wakes.count(step, wake.keys)
        step.wakes[model] = wake
    waking.begin(step, machine, wake, f"requests wait for {model}" if levels else f"the operator wants {model}")


def _hedge(step: Step, model: str, wake: Wake) -> None:
    """A local engine gains nothing from a second one beside it."""
    machine = candidate(step.fleet, step.spec.lineups[model], wake.id, step.now)
    if machine is None or not step.spec.observation_policy(machine.spec).reachable:
        return
    if hedge_due(step.fleet, machine, wake.deadline, step.now):
        waking.begin(step, machine, wake, f"requests wait for {model}, and the first machine may come too late")


def _warm(step: Step, tier: str) -> None:
    if not to_be_warm(step.fleet, tier, step.now):
        return
    names = [m.id for m in step.machines.values() if m.spec.tier == tier and m.spec.models]
    machine = candidate(step.fleet, names, "", step.now)
    if machine is not None:
        wake = Wake(step.spec.new_id(step.now), step.now + step.spec.wake_cap)
        waking.begin(step, machine, wake, "a schedule or the usual pattern of use wants it awake")
