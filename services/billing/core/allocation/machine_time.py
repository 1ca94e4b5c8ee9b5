"""What a machine did when: its intervals from the fleet's journal, and how a window divides into causes of cost."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from services.billing.core.utc_time import Window
from shared.messages.waker import MachineState

TimeCause = Literal["serving", "warm_idle", "waking", "failed_wake", "asleep"]
TIME_CAUSES: tuple[TimeCause, ...] = ("serving", "warm_idle", "waking", "failed_wake", "asleep")
BILLABLE_CAUSES: tuple[TimeCause, ...] = ("serving", "warm_idle", "waking", "failed_wake")

_CAUSES: dict[MachineState, TimeCause] = {
    "asleep": "asleep",
    "waking": "waking",
    "ready": "warm_idle",
    "draining": "warm_idle",
    "falling_asleep": "warm_idle",
    "broken": "warm_idle",  # once its provider says that it is off, it is asleep
    "gone": "asleep",
}
_SERVING_STATES: frozenset[MachineState] = frozenset({"ready", "draining"})


@dataclass(frozen=True)
class StateChange:
    """From `at` (milliseconds) the machine was in `state`."""

    at: int
    state: MachineState
    tier: str | None = None
    """The machine's tier at that time; None: the configured one."""
    key_id: str | None = None
    """The key whose request woke it."""
    before: MachineState | None = None
    """The state that ended; None: it is not known."""


class TimeKind(NamedTuple):
    """A kind of time that a machine spent."""

    tier: str | None
    cause: TimeCause
    """`warm_idle` includes time that the meter may show to be `serving`."""
    key_id: str | None
    """Who caused it, if it is a wake."""


@dataclass(frozen=True)
class Interval:
    window: Window
    spell: TimeKind
    can_serve: bool


@dataclass(frozen=True)
class MachineTime:
    """One machine's intervals and when it had requests in flight, each in order and without overlap."""

    intervals: Sequence[Interval] = ()
    busy: Sequence[Window] = ()

    def intervals_in(self, window: Window) -> list[Interval]:
        """Return the intervals that touch the window, uncut."""
        return [interval for interval in self.intervals if interval.window.overlap(window).length]

    def use(self, window: Window) -> "TimeUse":
        spent: dict[TimeKind, int] = {}
        for interval in self.intervals_in(window):
            part = interval.window.overlap(window)
            served = self._busy_before(part.end) - self._busy_before(part.start) if interval.can_serve else 0
            serving = interval.spell._replace(cause="serving")
            for spell, length in ((serving, served), (interval.spell, part.length - served)):
                if length:
                    spent[spell] = spent.get(spell, 0) + length
        return TimeUse(spent, window.length - sum(spent.values()))

    @cached_property
    def _starts(self) -> list[int]:
        return [window.start for window in self.busy]

    @cached_property
    def _sums(self) -> list[int]:
        return list(accumulate((window.length for window in self.busy), initial=0))

    def _busy_before(self, moment: int) -> int:
        """Milliseconds; a busy day has thousands of windows, so they are not walked."""
        number = bisect_right(self._starts, moment)
        return self._sums[number] - (max(0, self.busy[number - 1].end - moment) if number else 0)


@dataclass(frozen=True)
class TimeUse:
    """Milliseconds of a window by kind; they and `uncovered` (no word in the journal) sum to its length."""

    spells: dict[TimeKind, int] = field(default_factory=dict)
    uncovered: int = 0

    @property
    def by_cause(self) -> dict[TimeCause, int]:
        lengths = dict.fromkeys(TIME_CAUSES, 0)
        for spell, length in self.spells.items():
            lengths[spell.cause] += length
        return lengths

    @property
    def covered(self) -> int:
        """All that the journal knows."""
        return sum(self.spells.values())

    @property
    def billable(self) -> int:
        """Time in which a provider bills the machine itself, not only its disks."""
        return sum(length for spell, length in self.spells.items() if spell.cause in BILLABLE_CAUSES)


def order_changes(changes: Sequence[StateChange]) -> list[StateChange]:
    """Return one machine's changes, `told` in the order of the journal, in the order in which they happened.

    That is the journal's, if there as many of them begin where the one before ended as in the order of their times.
    Where the two differ, a clock was set back, or another waker's is behind: what was told earlier ended at the latest
    when the next began. Books that took the journal out of order have the order of the times.
    """
    by_time = sorted(changes, key=lambda change: change.at)
    if _count_links(changes) < max(1, _count_links(by_time)):
        return by_time
    ends = list(accumulate((change.at for change in reversed(changes)), min))[::-1]
    return [replace(change, at=at) for change, at in zip(changes, ends, strict=True)]


def _count_links(changes: Sequence[StateChange]) -> int:
    return sum(after.before == before.state for before, after in pairwise(changes))


def build_intervals(changes: Sequence[StateChange], now: int) -> list[Interval]:
    """The machine's life from its first change on; `changes` in order. The last state lasts until `now`.

    A wake that did not end in `ready` counts as failed from its beginning.
    """
    spans: list[Interval] = []
    for number, change in enumerate(changes):
        following = changes[number + 1] if number + 1 < len(changes) else None
        cause = _CAUSES[change.state]
        if change.state == "waking" and following is not None and following.state not in _SERVING_STATES:
            cause = "failed_wake"
        key_id = change.key_id if change.state == "waking" else None
        window = Window(change.at, min(now, following.at) if following else now)
        if window.length:
            spans.append(Interval(window, TimeKind(change.tier, cause, key_id), change.state in _SERVING_STATES))
    return spans


def subtract_windows(window: Window, taken: Sequence[Window]) -> list[Window]:
    """What is left of `window`, in order, where none of `taken` is."""
    left, start = [], window.start
    for hole in sorted(taken, key=lambda w: w.start):
        if hole.start > start:
            left.append(Window(start, min(hole.start, window.end)))
        start = max(start, hole.end)
    left.append(Window(start, window.end))
    return [part for part in left if part.length]
