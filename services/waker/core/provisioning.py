"""Which machine is woken for which model: the lineup is walked, hedged and tried again within a wake's deadline."""

from services.waker.core import commands, key_wakes, waking
from services.waker.core.machine import Machine
from services.waker.core.policy import (
    blocking_mate,
    candidate,
    demand_for,
    is_hedge_due,
    keys_of,
    lineup,
    needs_another,
    needs_warm_machine,
)
from services.waker.core.state import DemandLevel, Wake
from services.waker.core.step import Step

MACHINES_PER_WAKE = 2
"""Machines that one wake starts at the same time: the first, and a hedge when time runs short."""


def bring_up(step: Step) -> None:
    """Wake machines for every model with demand and no machine with room, then for tiers that are to stay warm."""
    commands.settle_operator_wakes(step)
    for model in _longest_waiting_first(step):
        _end_wake(step, model)
        levels = demand_for(step.fleet, [model])
        if not levels and model not in step.operator_wakes:
            continue
        wake = step.wakes.get(model)
        waking_machines = _waking_machines(step, model)
        if not waking_machines and needs_another(step.fleet, model, levels):
            _try_next(step, model, wake, levels)
        elif wake is not None and 0 < len(waking_machines) < MACHINES_PER_WAKE:
            _hedge(step, model, wake)
    for tier in step.spec.idle:
        _warm(step, tier)


def _longest_waiting_first(step: Step) -> list[str]:
    """All models, ordered so that two models that need the same pair take turns."""
    waiting = [model for (model, _), level in step.demand.items() if level.request.waiting > 0]
    return list(dict.fromkeys([*waiting, *step.spec.lineups]))


def _waking_machines(step: Step, model: str) -> list[Machine]:
    return [machine for machine in lineup(step.fleet, model) if machine.state == "waking"]


def _end_wake(step: Step, model: str) -> None:
    """End the model's wake once a machine is ready, nobody wants it, or its time is up; losers are hibernated."""
    wake = step.wakes.get(model)
    if wake is None:
        return
    own = [m for name in step.spec.lineups[model] if (m := step.machines[name]).wake_id == wake.id]
    winner = next((m for m in own if m.state == "ready"), None)
    if winner is not None:
        for machine in own:
            if machine.state == "waking":
                waking.supersede(step, machine, winner)
    is_unwanted = not demand_for(step.fleet, [model]) and model not in step.operator_wakes
    is_over = winner is not None or is_unwanted or step.now >= wake.deadline
    if is_over and not any(step.machines[m.id].state == "waking" for m in own):
        del step.wakes[model]


def _try_next(step: Step, model: str, wake: Wake | None, levels: list[DemandLevel]) -> None:
    machine = candidate(step.fleet, step.spec.lineups[model], wake.id if wake else "", step.now)
    if machine is None:
        mate = blocking_mate(step.fleet, step.spec.lineups[model], wake.id if wake else "", step.now)
        if mate is not None:
            step.transition(mate, "draining", f"its pair is needed for {model}")
        return
    if wake is None:
        wake = Wake(step.spec.new_id(step.now), step.now + step.spec.wake_cap_s, keys_of(step.fleet, levels))
        key_wakes.count(step, wake.keys)
        step.wakes[model] = wake
    waking.begin(step, machine, wake, f"requests wait for {model}" if levels else f"the operator woke {model}")


def _hedge(step: Step, model: str, wake: Wake) -> None:
    """Start a second machine if the first may be too late. A local engine gains nothing from a second one."""
    machine = candidate(step.fleet, step.spec.lineups[model], wake.id, step.now)
    if machine is None or not step.spec.observation_policy(machine.spec).is_remote:
        return
    if is_hedge_due(step.fleet, machine, wake.deadline, step.now):
        waking.begin(step, machine, wake, f"requests wait for {model}, and the first machine may come too late")


def _warm(step: Step, tier: str) -> None:
    if not needs_warm_machine(step.fleet, tier, step.now):
        return
    names = [m.id for m in step.machines.values() if m.spec.tier == tier and m.spec.models]
    machine = candidate(step.fleet, names, "", step.now)
    if machine is not None:
        wake = Wake(step.spec.new_id(step.now), step.now + step.spec.wake_cap_s)
        waking.begin(step, machine, wake, "a schedule or the usual pattern of use keeps it awake")
