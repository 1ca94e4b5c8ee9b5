"""The operator's commands: each holds until the next one."""

from dataclasses import replace

from services.waker.core import sleeping, unready, waking
from services.waker.core.events import Command
from services.waker.core.machine import Machine
from services.waker.core.policy import candidate, is_released
from services.waker.core.state import Wake
from services.waker.core.step import Step
from shared.messages.waker import CommandIssued

REASON = "the operator's command"


def apply(step: Step, command: Command) -> None:
    """Apply a command whose model or machine exists; the caller rejects any other."""
    issued = CommandIssued(
        at=step.now, machine=command.target, order=command.order, by=command.by, reason=command.reason
    )
    step.journal(issued)
    if command.order == "wake" and command.is_machine:
        _wake_once(step, step.machines[command.target])
        return
    if command.order == "wake":
        if command.target not in step.operator_wakes:
            step.operator_wakes = (*step.operator_wakes, command.target)
        unready.reset(step, command.target)
        return
    machine = step.machines[command.target]
    match command.order:
        case "hibernate":
            _hibernate(step, machine, is_forced=command.force)
        case "cordon":
            operator = replace(machine.operator, is_cordoned=True, keep_awake=False)
            machine = step.put(replace(machine, operator=operator))
            if machine.state == "waking" and machine.spec.sleeps:
                sleeping.hibernate(step, machine, "the operator cordoned it")
        case "uncordon":
            machine = step.put(replace(machine, operator=replace(machine.operator, is_cordoned=False)))
            if machine.state == "draining" and not machine.is_leaving:
                step.transition(machine, "ready", REASON)


def _wake_once(step: Step, machine: Machine) -> None:
    """Wake the machine if it is asleep and may be started. Nothing keeps it awake afterwards."""
    unready.reset_machine(step, machine)
    if candidate(step.fleet, [machine.id], "", step.now) is not None:
        wake = Wake(step.spec.new_id(step.now), step.now + step.spec.wake_cap_s)
        waking.begin(step, machine, wake, REASON)


def _hibernate(step: Step, machine: Machine, *, is_forced: bool) -> None:
    """Put the machine to sleep, and withdraw any earlier `wake`."""
    step.operator_wakes = tuple(model for model in step.operator_wakes if model not in machine.spec.models)
    must_sleep = machine.operator.must_sleep or machine.state in ("ready", "draining", "broken")
    operator = replace(machine.operator, keep_awake=False, must_sleep=must_sleep, is_forced=must_sleep and is_forced)
    machine = step.put(replace(machine, operator=operator))
    match machine.state:
        case "broken" if not is_forced and not is_released(step.fleet, machine, step.now):
            pass  # gateways stream from it, or may
        case "waking" | "broken":
            sleeping.hibernate(step, machine, REASON)
        case "ready":
            step.transition(machine, "draining", REASON)
        case _:
            pass


def settle_operator_wakes(step: Step) -> None:
    """Keep a ready machine awake for each model that the operator wants awake."""
    for model in step.operator_wakes:
        for name in step.spec.lineups[model]:
            machine = step.machines[name]
            if machine.state == "ready" and not machine.is_leaving and machine.spec.tier not in step.closed:
                step.put(replace(machine, operator=replace(machine.operator, keep_awake=machine.spec.sleeps)))
                step.operator_wakes = tuple(other for other in step.operator_wakes if other != model)
                break
