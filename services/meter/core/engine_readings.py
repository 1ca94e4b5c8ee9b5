"""What an engine's counters rose by between two readings, and in which day.

Counters that fell, or that the engine says are another process's, were begun anew: what they show was counted since. So
of an engine that died nothing is missing but what it did between its last reading and its death. What rose over
midnight belongs to the day of the later reading.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from services.meter.core.day import Day, parse_day
from services.meter.core.engine_counters import EngineCounters


@dataclass(frozen=True, kw_only=True)
class EngineReading:
    """One look at a machine's engine; `at` in Unix seconds."""

    machine: str
    generation: int
    at: float
    counters: EngineCounters


@dataclass(frozen=True, kw_only=True)
class CounterIncrease:
    """What the engine counted from `since` to the reading; with `whole` everything since its process began."""

    since: float
    whole: bool
    prompt_tokens: int
    completion_tokens: int
    requests: int | None
    reset: bool = False
    """The counters were begun anew: what was counted between `since` and then is in no reading."""


@dataclass(frozen=True, kw_only=True)
class EngineDay:
    """What one generation of a machine counted in one day, by its engine."""

    machine: str
    generation: int
    day: str
    since: float
    """The counting begins behind this moment, which is the last reading of an earlier day or generation."""
    whole: bool
    """It counts from the beginning of the engine's process."""
    last_at: float
    """Up to here."""
    prompt_tokens: int
    completion_tokens: int
    requests: int | None
    readings: int
    resets: int
    running: int
    """At the last reading."""
    rounding: int
    """How far the sum of both may be from the true one."""


def day_of(at: float) -> Day:
    """The UTC day of a Unix time."""
    return parse_day(datetime.fromtimestamp(at, UTC).date().isoformat())


def counter_increase(
    last: EngineReading | None, new: EngineReading, *, day: Day, started_at: float | None, stays: bool
) -> CounterIncrease | None:
    """`started_at`: when the waker last started the machine; `stays`: its engine is not ours to start and end.

    None: the reading is no newer than the last one, and says nothing.
    """
    if last is None:
        # Of an engine that was there before us nobody knows what it did when: it is counted from now on.
        begun = started_at if started_at is not None and day.start <= started_at <= new.at else None
        return _since(
            new, new.at if begun is None else begun, whole=begun is not None, less=new if begun is None else None
        )
    if new.at <= last.at:
        return None
    if new.generation != last.generation and not stays:
        begun = last.at if started_at is None or started_at > new.at else max(last.at, started_at)
        return _since(new, begun, whole=True, less=None)
    if _begun_anew(last.counters, new.counters):
        return replace(_since(new, last.at, whole=False, less=None), reset=True)
    return _since(new, last.at, whole=False, less=last)


def add_reading(before: EngineDay | None, new: EngineReading, more: CounterIncrease, day: Day) -> EngineDay:
    """The day with one more reading in it."""
    if before is None:
        before = EngineDay(
            machine=new.machine,
            generation=new.generation,
            day=day.name,
            since=more.since,
            whole=more.whole,
            last_at=more.since,
            prompt_tokens=0,
            completion_tokens=0,
            requests=None,
            readings=0,
            resets=0,
            running=0,
            rounding=0,
        )
    return replace(
        before,
        last_at=new.at,
        prompt_tokens=before.prompt_tokens + more.prompt_tokens,
        completion_tokens=before.completion_tokens + more.completion_tokens,
        requests=before.requests if more.requests is None else (before.requests or 0) + more.requests,
        readings=before.readings + 1,
        resets=before.resets + more.reset,
        running=new.counters.running,
        # The readings between cancel out; those at both ends do not.
        rounding=max(before.rounding, 2 * new.counters.rounding),
    )


def _since(new: EngineReading, since: float, *, whole: bool, less: EngineReading | None) -> CounterIncrease:
    now, then = new.counters, less.counters if less else None
    requests = now.requests
    if requests is not None and then is not None:
        requests = max(0, requests - (then.requests or 0))
    return CounterIncrease(
        since=since,
        whole=whole,
        prompt_tokens=now.prompt_tokens - (then.prompt_tokens if then else 0),
        completion_tokens=now.completion_tokens - (then.completion_tokens if then else 0),
        requests=requests,
    )


def _begun_anew(last: EngineCounters, new: EngineCounters) -> bool:
    """By the engine's word, or by a fall that is more than the printing explains."""
    if None not in (last.process, new.process) and new.process != last.process:
        return True
    slack = last.rounding + new.rounding
    return new.prompt_tokens < last.prompt_tokens - slack or new.completion_tokens < last.completion_tokens - slack
