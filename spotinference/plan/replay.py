"""Replays a tier's requests through an idle policy: what would have been awake, and who would have waited.

One machine serves the tier and takes any number of requests at once. It is asleep at the start, falls asleep at once,
and each wake takes the same time, all of it billed. A request that comes while it sleeps wakes it, and waits like
those that come meanwhile; its own time begins when the machine is ready. Nothing is random. Times are Unix seconds.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

from services.waker.core.idle import IdleSettings, Past, is_scheduled, sleep_at, wake_at, with_gap
from shared.units import HOUR_S, MINUTE_S

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests in the order of their arrival, and how long each is with its machine; all arrive in the span."""

    span: Span
    arrivals: Sequence[float]
    seconds: Sequence[float]
    tokens: int = 0
    """Of all of them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the machine and of the requests. Durations are seconds."""

    awake: float
    asleep: float
    wakes: int
    requests: int
    waits: tuple[float, ...]
    """Of those that waited, the shortest first."""
    waiting: float
    """While at least one waited."""

    def wait(self, quantile: float) -> float:
        """The smallest wait that this part of all requests, waiting or not, did not exceed."""
        place = ceil(quantile * self.requests) - (self.requests - len(self.waits))
        return self.waits[place - 1] if place > 0 else 0.0


def replay(traffic: Traffic, plan: IdleSettings, wake: float, warm_spans: Sequence[Span] = ()) -> Outcome:
    """Under this policy, which learns gaps as it goes. `warm_spans`: when the plan's schedules want it awake."""
    start, end = traffic.span
    run = _Run(plan=plan, wake_seconds=wake, warm=warm_spans, asleep_since=start)
    waits, waiting = list[float](), 0.0
    for arrived, seconds in zip(traffic.arrivals, traffic.seconds, strict=True):
        if arrived > run.idle_since or not run.awake:
            run.idle(arrived)
        begun = arrived
        if run.ready > arrived:
            begun = run.ready
            waits.append(begun - arrived)
            if not run.waited:
                # The first to wait for a wake waits longest.
                run.waited = True
                waiting += begun - arrived
        run.idle_since = max(run.idle_since, begun + seconds)
    run.idle(end, used=False)
    return _outcome(traffic, run.awake_until(end), run.wakes, waits, waiting)


def always_on(traffic: Traffic, wake: float) -> Outcome:
    """Woken at the start and never put to sleep."""
    return replay(traffic, IdleSettings(policy="fixed", timeout=0.0), wake, [(traffic.span[0], inf)])


def clairvoyant(traffic: Traffic, wake: float) -> Outcome:
    """The cheapest way on which nobody waits, for one who knows the future.

    It sleeps at once through each gap that is longer than a wake, and is ready at its end. At the start it may be too
    late for that. No bound of a policy holds for it.
    """
    start, end = traffic.span
    awake, wakes, waits, waiting = 0.0, 0, list[float](), 0.0
    awake_since, idle_since, ready = 0.0, -inf, -inf
    for arrived, seconds in zip(traffic.arrivals, traffic.seconds, strict=True):
        if arrived - idle_since > wake:
            if wakes:
                awake += min(idle_since, end) - awake_since
            awake_since = max(start, arrived - wake)
            ready = max(start + wake, arrived)
            wakes += 1
            waiting += ready - arrived
        begun = max(arrived, ready)
        if begun > arrived:
            waits.append(begun - arrived)
        idle_since = max(idle_since, begun + seconds)
    if wakes:
        awake += min(idle_since, end) - awake_since
    return _outcome(traffic, awake, wakes, waits, waiting)


def warm_spans(plan: IdleSettings, span: Span) -> list[Span]:
    """When schedules want the machine awake, within the span: whole minutes, merged."""
    if not plan.keep_warm:
        return []
    found: list[Span] = []
    for begin, end in _minutes(span):
        if is_scheduled(plan, begin):
            if found and found[-1][1] == begin:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
    return found


def most_at_once(traffic: Traffic) -> int:
    """Requests that were with the machine at the same time, had none of them waited."""
    ends = sorted(a + s for a, s in zip(traffic.arrivals, traffic.seconds, strict=True))
    most = ended = 0
    for begun, arrived in enumerate(traffic.arrivals, 1):
        while ends[ended] <= arrived and ended < begun - 1:
            ended += 1
        most = max(most, begun - ended)
    return most


@dataclass(kw_only=True)
class _Run:
    """The machine while it is replayed."""

    plan: IdleSettings
    wake_seconds: float
    warm: Sequence[Span]
    asleep_since: float
    awake: bool = False
    awake_since: float = 0.0
    ready: float = -inf
    idle_since: float = -inf
    """The end of its last request, or when it became ready; in the future while it is busy."""
    last_used: float = -inf
    waited: bool = False
    """Somebody waited for the wake that led to `ready`."""
    wakes: int = 0
    woken: tuple[float, ...] = ()
    total: float = 0.0
    past: Past = field(init=False)

    def __post_init__(self) -> None:
        self.past = Past(wakes=(self.wake_seconds,))

    def idle(self, until: float, *, used: bool = True) -> None:
        """What happens to it without use until then; awake afterwards if it is `used`."""
        if self.awake:
            self.last_used = self.idle_since
        while True:
            if self.awake:
                at = self._sleeps()
                if at >= until:
                    break
                self.total += at - self.awake_since
                self.asleep_since, self.awake = at, False
            ahead = self._woken_ahead()
            if ahead >= until:
                if used:
                    self._wake(until)
                break
            self._wake(ahead)
        if used and self.last_used > -inf and until - self.last_used >= MINUTE_S:
            self.past = Past(gaps=with_gap(self.past.gaps, until - self.last_used), wakes=self.past.wakes)

    def awake_until(self, end: float) -> float:
        """Seconds awake before the end."""
        return self.total + end - self.awake_since if self.awake else self.total

    def _sleeps(self) -> float:
        at = sleep_at(self.plan, self.past, ready_since=self.ready, idle_since=self.idle_since, wakes_at=self.woken)
        current = bisect_right(self.warm, (at, inf)) - 1
        return max(at, self.warm[current][1]) if current >= 0 else at

    def _woken_ahead(self) -> float:
        """By its pattern or a schedule; for ever away if by neither."""
        ahead = wake_at(self.plan, self.past, idle_since=self.last_used, asleep_since=self.asleep_since)
        coming = bisect_right(self.warm, self.asleep_since, key=lambda span: span[1])
        scheduled = max(self.warm[coming][0], self.asleep_since) if coming < len(self.warm) else inf
        return min(inf if ahead is None else ahead, scheduled)

    def _wake(self, at: float) -> None:
        self.awake, self.awake_since, self.waited = True, at, False
        self.ready = self.idle_since = at + self.wake_seconds
        self.wakes += 1
        if self.plan.max_cycles_per_hour is not None:
            self.woken = (*(w for w in self.woken if w > at - HOUR_S), at)


def _minutes(span: Span) -> Iterator[Span]:
    begin, end = span
    while begin < end:
        following = min((begin // MINUTE_S + 1) * MINUTE_S, end)
        yield begin, following
        begin = following


def _outcome(traffic: Traffic, awake: float, wakes: int, waits: list[float], waiting: float) -> Outcome:
    start, end = traffic.span
    return Outcome(
        awake=awake,
        asleep=end - start - awake,
        wakes=wakes,
        requests=len(traffic.arrivals),
        waits=tuple(sorted(waits)),
        waiting=waiting,
    )
