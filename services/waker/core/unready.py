"""Engines that do not become ready: the pause doubles with each failure, and the operator gets an alarm."""

from dataclasses import replace

from services.waker.core import sleeping
from services.waker.core.machine import ALARM_AFTER_WAKES, Machine
from services.waker.core.step import Step

BACKOFF_S = 20.0
"""After the first wake in which the engine did not become ready; it doubles with each further one."""
BACKOFF_LIMIT_S = 3600.0
"""The longest pause: a repaired machine is back within the hour, and costs one wake an hour until then."""
REPORT_EVERY_S = 10.0
"""Between two reasons on record, so that an engine whose responses all differ does not fill the journal."""


def may_update_reason(step: Step, machine: Machine, reason: str) -> bool:
    """Whether a probe's newest error may replace the reason on record."""
    return reason != machine.reason and step.now >= machine.probe.reported_at + REPORT_EVERY_S


def backoff_s(failures: int) -> float:
    """Seconds until the next wake after this many unready wakes in a row."""
    return min(BACKOFF_S * 2.0 ** min(failures - 1, 16), BACKOFF_LIMIT_S)


def give_up(step: Step, machine: Machine, reason: str, *, running: bool) -> None:
    """End a wake whose engine had its time and did not become ready. `running`: the machine must be stopped."""
    wakes = machine.backoff.unready_wakes + 1
    pause_s = backoff_s(wakes)
    backoff = replace(machine.backoff, unready_wakes=wakes, unready_reason=reason, until=step.now + pause_s)
    if wakes >= ALARM_AFTER_WAKES:
        reason = f"{reason}; wake {wakes} in a row without a ready engine, the next one not within {pause_s:.0f} s"
    machine = replace(machine, backoff=backoff)
    if running:
        sleeping.hibernate(step, machine, reason)
    else:
        step.transition(machine, "asleep", reason)


def reset(step: Step, model: str) -> None:
    """Allow the model's machines at once: an operator who asks for it may have repaired them."""
    for name in step.spec.lineups[model]:
        reset_machine(step, step.machines[name])


def reset_machine(step: Step, machine: Machine) -> None:
    """Allow the machine at once."""
    if not machine.backoff.unready_wakes:
        return
    backoff = replace(machine.backoff, unready_wakes=0, unready_reason="")
    if machine.state == "asleep":
        backoff = replace(backoff, until=0.0)
        machine = replace(machine, starts=replace(machine.starts, by_wake={}))
    step.put(replace(machine, backoff=backoff))
