"""Engines that do not become ready: each is left alone for longer, time after time, and the operator is told."""

from typing import Any

from services.waker.core import sleeping
from services.waker.core.state import ALARM_FROM, Machine
from services.waker.core.step import Step

BACKOFF_SECONDS = 20.0
"""After the first wake in which the engine did not become ready; it doubles with each that follows."""
BACKOFF_LIMIT_SECONDS = 3600.0
"""The longest pause: a machine that was repaired is found within the hour, and costs a wake an hour until then."""
RETELL_SECONDS = 10.0
"""Between two reasons on record: an engine whose every answer reads otherwise fills no journal."""


def may_retell(step: Step, machine: Machine, reason: str) -> bool:
    """Whether to put a probe's newest reason on record, in place of the one that is there."""
    return reason != machine.reason and step.now >= machine.retold_at + RETELL_SECONDS


def backoff(times: int) -> float:
    """Return the seconds before the next wake after so many wakes in a row that led nowhere."""
    return min(BACKOFF_SECONDS * 2.0 ** min(times - 1, 16), BACKOFF_LIMIT_SECONDS)


def give_up(step: Step, machine: Machine, reason: str, *, running: bool) -> None:
    """End a wake whose engine had its time and did not become ready. `running`: the machine has to be stopped."""
    times = machine.unready + 1
    pause = backoff(times)
    left_alone: dict[str, Any] = {"unready": times, "unready_reason": reason, "cool_until": step.now + pause}
    if times >= ALARM_FROM:
        reason = f"{reason}; wake {times} in a row without a ready engine, the next one not within {pause:.0f} s"
    if running:
        sleeping.fall(step, machine, reason, **left_alone)
    else:
        step.move(machine, "asleep", reason, **left_alone)


def forgive(step: Step, model: str) -> None:
    """Try the model's machines again at once: the operator, who asks for it, may have repaired them."""
    for name in step.spec.lineups[model]:
        machine = step.machines[name]
        if not machine.unready:
            continue
        machine = step.set(machine, unready=0, unready_reason="")
        if machine.state == "asleep":
            step.set(machine, cool_until=0.0, tried={})
