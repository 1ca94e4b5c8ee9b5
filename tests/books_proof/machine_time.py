"""What each machine did when: intervals by cause, from its moves and the requests on it."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from tests.books_proof.facts import Move, Use

AWAKE = ("ready", "draining")
BILLABLE = ("serving", "warm_idle", "waking", "failed_wake")
UNKNOWN = "unknown"


class Doing(NamedTuple):
    """A cause of cost; of a wake also the key whose request it was for."""

    cause: str
    key: str | None = None


Times = dict[Doing, Fraction]
"""Seconds of each."""


@dataclass(frozen=True)
class Interval:
    """What the machine did from `start` to `end`."""

    start: Fraction
    end: Fraction
    doing: Doing


class MachineTime:
    """One machine's time up to `now`. Before its first move nothing is known of it."""

    def __init__(self, moves: Iterable[Move], uses: Iterable[Use], now: int) -> None:
        self._now = Fraction(now)
        ordered = sorted(moves, key=lambda move: move.at)
        busy = _merged((use.start, use.end) for use in uses)
        self.intervals: list[Interval] = []
        for number, move in enumerate(ordered):
            end = ordered[number + 1].at if number + 1 < len(ordered) else self._now
            following = ordered[number + 1].state if number + 1 < len(ordered) else None
            if move.state in AWAKE:
                self.intervals += _by_use(move.at, end, busy)
            else:
                key = move.key if move.state == "waking" else None
                self.intervals.append(Interval(move.at, end, Doing(_cause(move.state, following), key)))

    def times(self, start: Fraction | int, end: Fraction | int) -> Times:
        """Seconds by cause between the two; `unknown` is what no move covers. What is to come is left out."""
        start, end = Fraction(start), min(Fraction(end), self._now)
        totals: Times = defaultdict(Fraction)
        for interval, seconds in self.within(start, end):
            totals[interval.doing] += seconds
        silent = max(end - start, Fraction(0)) - sum(totals.values())
        if silent:
            totals[Doing(UNKNOWN)] = silent
        return dict(totals)

    def billable(self, start: Fraction | int, end: Fraction | int) -> Fraction:
        """Seconds between the two in which it was not off."""
        return sum(running(self.times(start, end)).values(), Fraction(0))

    def within(self, start: Fraction | int, end: Fraction | int) -> list[tuple[Interval, Fraction]]:
        """The intervals that overlap with it, each with the seconds that they have in common."""
        low, high = Fraction(start), Fraction(end)
        first = max(bisect_right(self._starts, low) - 1, 0)
        near = self.intervals[first : bisect_left(self._starts, high)]
        totals = ((each, min(each.end, high) - max(each.start, low)) for each in near)
        return [(each, seconds) for each, seconds in totals if seconds > 0]

    @cached_property
    def _starts(self) -> list[Fraction]:
        return [each.start for each in self.intervals]


def running(times: Times) -> Times:
    """The time in which the machine itself is billed, not only its disks."""
    return {doing: seconds for doing, seconds in times.items() if doing.cause in BILLABLE and seconds}


def _cause(state: str, following: str | None) -> str:
    """A wake has failed when anything but `ready` follows it. What is broken runs until it is seen off."""
    if state == "waking":
        return "waking" if following in {*AWAKE, None} else "failed_wake"
    return "warm_idle" if state in ("falling_asleep", "broken") else "asleep"


def _by_use(start: Fraction, end: Fraction, busy: Sequence[tuple[Fraction, Fraction]]) -> list[Interval]:
    totals, at = [], start
    since = max(bisect_right(busy, (start, start)) - 1, 0)
    for first, last in busy[since:]:
        if first >= end:
            break
        low, high = max(first, start), min(last, end)
        if low >= high:
            continue
        if at < low:
            totals.append(Interval(at, low, Doing("warm_idle")))
        totals.append(Interval(low, high, Doing("serving")))
        at = high
    if at < end:
        totals.append(Interval(at, end, Doing("warm_idle")))
    return totals


def _merged(spans: Iterable[tuple[Fraction, Fraction]]) -> list[tuple[Fraction, Fraction]]:
    merged: list[tuple[Fraction, Fraction]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged
