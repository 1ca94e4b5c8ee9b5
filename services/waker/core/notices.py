"""Notices from machines that their provider takes back. A machine repeats its notice, so none is kept for a successor.

The provider's own API tells the same, later.
"""

from dataclasses import replace

from services.waker.core import sleeping
from services.waker.core.events import NoticeReceived
from services.waker.core.machine import Machine
from services.waker.core.provider_view import Notice
from services.waker.core.step import Step
from shared.messages.codec import rfc3339
from shared.messages.machine import MachineNotice
from shared.messages.waker import ProviderCall

MAX_AGE_S = 30.0
"""A notice is repeated every few seconds: an older one is a replay. Clocks may differ by as much."""
MAX_LEAD_S = 900.0
"""EC2 gives two minutes. What is further away is no notice."""
LAPSE_S = 300.0
"""A machine that is still there so long after its time was not taken: it serves again."""


def fault_of(notice: MachineNotice, now: float) -> str | None:
    """Why the notice counts for nothing at this moment; None if it counts."""
    if not now - MAX_AGE_S <= notice.observed_at <= now + MAX_AGE_S:
        return f"observed {now - notice.observed_at:.0f} s ago: an old notice, or a clock is wrong"
    if notice.at < now - MAX_AGE_S:
        return f"its time passed {now - notice.at:.0f} s ago"
    if notice.at > now + MAX_LEAD_S:
        return f"its time is {notice.at - now:.0f} s away"
    return None


def apply(step: Step, event: NoticeReceived) -> None:
    """Apply a notice: the machine drains at once, and for good."""
    notice = event.notice
    machine = step.machines.get(notice.machine)
    if machine is None or machine.state in (None, "asleep", "gone"):
        return
    if machine.notice is not None and notice.observed_at <= machine.notice.observed_at:
        return
    words = f"{notice.action} at {rfc3339(notice.at)}, as the machine was told"
    is_new = machine.notice is None or machine.notice.words != words
    machine = step.put(
        replace(machine, notice=Notice(words=words, at=notice.at + event.ahead_s, observed_at=notice.observed_at))
    )
    if not is_new:
        return
    if machine.state == "broken":
        sleeping.record_reclaim(step, machine, words)
        return
    step.journal(
        ProviderCall(at=step.now, machine=machine.id, call="notice", outcome="accepted", code=words, seconds=0.0)
    )


def advance(step: Step, machine: Machine) -> Machine:
    """Drain a ready machine that is taken back, and forget a notice that did not come true."""
    notice = machine.notice
    if notice is None:
        return machine
    if step.now > notice.at + LAPSE_S:
        return step.put(replace(machine, notice=None))
    if machine.state == "ready":
        return step.transition(machine, "draining", sleeping.reclaimed(notice.words))
    return machine
