"""What a machine did when: its intervals from the fleet's journal, and how a window divides into causes of cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from services.billing.core.days import Window
from shared.messages.waker import MachineState

TimeCause = Literal["serving", "warm_idle", "waking", "failed_wake", "asleep"]
TIME_CAUSES: tuple[TimeCause, ...] = ("serving", "warm_idle", "waking", "failed_wake", "asleep")
BILLABLE: tuple[TimeCause, ...] = ("serving", "warm_idle", "waking", "failed_wake")

_CAUSES: dict[MachineState, TimeCause] = {
    "asleep": "asleep",
    "waking": "waking",
    "ready": "warm_idle",
    "draining": "warm_idle",
    "falling_asleep": "warm_idle",
    "broken": "asleep",
    "gone": "asleep",
}
_SERVES: frozenset[MachineState] = frozenset({"ready", "draining"})


@dataclass(frozen=True)
class Change:
    """From `at` (milliseconds) the machine was in `state`."""

    at: int
    state: MachineState


@dataclass(frozen=True)
class Interval:
    window: Window
    cause: TimeCause
    """`warm_idle` also for what the meter may show to be `serving`."""
    can_serve: bool


@dataclass(frozen=True)
class MachineTime:
    """One machine's intervals, in order and without overlap, and when it had requests in flight."""

    intervals: Sequence[Interval] = ()
    busy: Sequence[Window] = ()

    def use(self, window: Window) -> "TimeUse":
        spent = dict.fromkeys(TIME_CAUSES, 0)
        for interval in self.intervals:
            part = interval.window.overlap(window)
            served = sum(part.overlap(b).length for b in self.busy) if interval.can_serve and part.length else 0
            spent["serving"] += served
            spent[interval.cause] += part.length - served
        return TimeUse(spent, window.length - sum(spent.values()))


@dataclass(frozen=True)
class TimeUse:
    """Milliseconds of a window by cause; they and `uncovered` (no word in the journal) sum to its length."""

    by_cause: dict[TimeCause, int] = field(default_factory=lambda: dict.fromkeys(TIME_CAUSES, 0))
    uncovered: int = 0

    @property
    def billable(self) -> int:
        """Time in which a provider bills the machine itself, not only its disks."""
        return sum(self.by_cause[cause] for cause in BILLABLE)


def intervals(changes: Sequence[Change], now: int) -> list[Interval]:
    """The machine's life from its first change on; `changes` in order. The last state lasts until `now`.

    A wake that did not end in `ready` has failed, all of it.
    """
    found: list[Interval] = []
    for number, change in enumerate(changes):
        following = changes[number + 1] if number + 1 < len(changes) else None
        cause = _CAUSES[change.state]
        if change.state == "waking" and following is not None and following.state not in _SERVES:
            cause = "failed_wake"
        window = Window(change.at, min(now, following.at) if following else now)
        if window.length:
            found.append(Interval(window, cause, change.state in _SERVES))
    return found


def without(window: Window, taken: Sequence[Window]) -> list[Window]:
    """What is left of `window`, in order, where none of `taken` is."""
    left, start = [], window.start
    for hole in sorted(taken, key=lambda w: w.start):
        if hole.start > start:
            left.append(Window(start, min(hole.start, window.end)))
        start = max(start, hole.end)
    left.append(Window(start, window.end))
    return [part for part in left if part.length]
