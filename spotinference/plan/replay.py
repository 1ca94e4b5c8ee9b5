"""Replays a tier's requests under an idle policy: when a machine would have been awake, and which requests waited.

The model: one machine serves the tier and takes any number of concurrent requests. It is asleep at the start and falls
asleep instantly. Each wake takes the same time and is billed. A request that arrives while the machine sleeps wakes it;
it waits until the machine is ready, like those that arrive meanwhile. Nothing is random. Times are Unix seconds.
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
    """Requests in order of arrival, and how long each occupies the machine. All arrive within the span."""

    span: Span
    arrivals: Sequence[float]
    seconds: Sequence[float]
    tokens: int = 0
    """The tokens of all requests."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a replay. Durations are seconds."""

    awake: float
    asleep: float
    wakes: int
    requests: int
    waits: tuple[float, ...]
    """Seconds that each request waited that had to wait, in ascending order."""
    waiting: float
    """While at least one request waited."""

    def wait(self, quantile: float) -> float:
        """Return a quantile of the waits of all requests; a request that did not wait counts as 0."""
        rank = ceil(quantile * self.requests) - (self.requests - len(self.waits))
        return self.waits[rank - 1] if rank > 0 else 0.0


def replay(traffic: Traffic, plan: IdleSettings, wake: float, scheduled_spans: Sequence[Span] = ()) -> Outcome:
    """Replay under a policy, which learns from the gaps. `scheduled_spans`: when schedules keep the machine awake."""
    start, end = traffic.span
    run = _Run(plan=plan, wake_seconds=wake, warm=scheduled_spans, asleep_since=start)
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


def replay_always_on(traffic: Traffic, wake: float) -> Outcome:
    """Replay with the machine woken at the start and never put to sleep."""
    return replay(traffic, IdleSettings(policy="fixed", timeout=0.0), wake, [(traffic.span[0], inf)])


def replay_clairvoyant(traffic: Traffic, wake: float) -> Outcome:
    """Replay with perfect knowledge of the future: the cheapest way in which no request waits.

    The machine sleeps through each gap that is longer than a wake, and is ready at its end. At the start there may not
    be enough time for that. The limits of the policies do not apply.
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


def scheduled_spans(plan: IdleSettings, span: Span) -> list[Span]:
    """Return when schedules keep the machine awake, within the span: whole minutes, merged."""
    if not plan.keep_warm:
        return []
    spans: list[Span] = []
    for begin, end in _minutes(span):
        if is_scheduled(plan, begin):
            if spans and spans[-1][1] == begin:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((begin, end))
    return spans


def peak_concurrency(traffic: Traffic) -> int:
    """Return the largest number of concurrent requests, had none of them waited."""
    ends = sorted(a + s for a, s in zip(traffic.arrivals, traffic.seconds, strict=True))
    most = ended = 0
    for begun, arrived in enumerate(traffic.arrivals, 1):
        while ends[ended] <= arrived and ended < begun - 1:
            ended += 1
        most = max(most, begun - ended)
    return most


@dataclass(kw_only=True)
class _Run:
    """The machine during a replay."""

    plan: IdleSettings
    wake_seconds: float
    warm: Sequence[Span]
    asleep_since: float
    awake: bool = False
    awake_since: float = 0.0
    ready: float = -inf
    idle_since: float = -inf
    """The end of its last request, or when it became ready; in the future while busy."""
    last_used: float = -inf
    waited: bool = False
    """A request waited for the wake that led to `ready`."""
    wakes: int = 0
    woken: tuple[float, ...] = ()
    total: float = 0.0
    past: Past = field(init=False)

    def __post_init__(self) -> None:
        self.past = Past(wakes=(self.wake_seconds,))

    def idle(self, until: float, *, used: bool = True) -> None:
        """Advance to `until` without a request; the machine is awake afterwards if it is `used` then."""
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
        """Return the seconds that the machine was awake before `end`."""
        return self.total + end - self.awake_since if self.awake else self.total

    def _sleeps(self) -> float:
        at = sleep_at(self.plan, self.past, ready_since=self.ready, idle_since=self.idle_since, wakes_at=self.woken)
        current = bisect_right(self.warm, (at, inf)) - 1
        return max(at, self.warm[current][1]) if current >= 0 else at

    def _woken_ahead(self) -> float:
        """Return when its pattern or a schedule wakes it; infinity if neither does."""
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
