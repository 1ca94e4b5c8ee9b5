"""By how much an engine's counters increased between two readings, and on which day.

Counters that fell, or that the engine attributes to another process, were reset: they show what was counted since. So
the only work of a dead engine that is missing is what it did between its last reading and its death. An increase across
midnight belongs to the day of the later reading.
"""

from dataclasses import dataclass, replace

from services.meter.core.day import Day
from services.meter.core.engine_counters import EngineCounters


@dataclass(frozen=True, kw_only=True)
class EngineReading:
    """The counters of a machine's engine at one moment; `at` in Unix seconds."""

    machine: str
    generation: int
    at: float
    counters: EngineCounters


@dataclass(frozen=True, kw_only=True)
class CounterIncrease:
    """What the engine counted from `since` to the reading; if `whole`, everything since its process began."""

    since: float
    whole: bool
    prompt_tokens: int
    completion_tokens: int
    requests: int | None
    reset: bool = False
    """The counters were reset: what was counted between `since` and the reset is in no reading."""


@dataclass(frozen=True, kw_only=True)
class EngineDay:
    """What the engine of one generation of a machine counted in one day."""

    machine: str
    generation: int
    day: str
    since: float
    """The count begins after this moment, which is the last reading of an earlier day or generation."""
    whole: bool
    """The count begins with the engine's process."""
    last_at: float
    """The count ends here."""
    prompt_tokens: int
    completion_tokens: int
    requests: int | None
    readings: int
    resets: int
    running: int
    """Requests that were running at the last reading."""
    rounding: int
    """How far the sum of prompt and completion tokens may be from the true one."""


def counter_increase(
    last: EngineReading | None, new: EngineReading, *, day: Day, started_at: float | None, is_unmanaged: bool
) -> CounterIncrease | None:
    """Return the increase since the last reading; None if the new one is no newer.

    `started_at`: when the waker last started the machine. `is_unmanaged`: nobody starts and stops its engine.
    """
    if last is None:
        # An engine that ran before the meter did has an unknown past: it is counted from now on.
        begun_at = started_at if started_at is not None and day.start <= started_at <= new.at else None
        return _since(
            new,
            new.at if begun_at is None else begun_at,
            whole=begun_at is not None,
            less=new if begun_at is None else None,
        )
    if new.at <= last.at:
        return None
    if new.generation != last.generation and not is_unmanaged:
        begun_at = last.at if started_at is None or started_at > new.at else max(last.at, started_at)
        return _since(new, begun_at, whole=True, less=None)
    if _is_reset(last.counters, new.counters):
        return replace(_since(new, last.at, whole=False, less=None), reset=True)
    return _since(new, last.at, whole=False, less=last)


def add_reading(before: EngineDay | None, new: EngineReading, more: CounterIncrease, day: Day) -> EngineDay:
    """Return the day with one more reading in it."""
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
        # The roundings of the readings in between cancel out; those at both ends do not.
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


def _is_reset(last: EngineCounters, new: EngineCounters) -> bool:
    """Whether the engine names another process, or its counters fell by more than rounding explains."""
    if None not in (last.process, new.process) and new.process != last.process:
        return True
    slack = last.rounding + new.rounding
    return new.prompt_tokens < last.prompt_tokens - slack or new.completion_tokens < last.completion_tokens - slack
