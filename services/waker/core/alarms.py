"""Why machines need an operator, as a few kinds; `Machine.operator_alarm` has the words."""

from typing import Literal

from services.waker.core.machine import Machine
from services.waker.core.sleeping import IN_USE

AlarmReason = Literal["in_use", "unready", "does_not_stop", "not_found", "broken", "provider"]


def alarm_reason(machine: Machine) -> AlarmReason | None:
    """The kind of the machine's alarm; None without one."""
    if not machine.operator_alarm:
        return None
    if machine.alarm == IN_USE:
        return "in_use"
    if not machine.alarm:
        return "unready"
    if machine.state == "broken":
        return "does_not_stop" if machine.is_stuck else "broken"
    return "not_found" if machine.state == "gone" else "provider"
