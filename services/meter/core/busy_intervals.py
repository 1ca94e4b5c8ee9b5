"""When a machine was busy: intervals in which it served requests, in Unix seconds."""

from services.meter.core.day import Day

Interval = tuple[float, float]


def serving_interval(day: Day, completed_at: float, duration: float, wake_wait: float) -> Interval | None:
    """Return the part of a day in which a machine served a request; the wait for a wake is not serving time."""
    start = max(day.start, min(completed_at, completed_at - duration + wake_wait))
    end = min(day.end, completed_at)
    return (start, end) if start < end else None


def append_interval(busy: list[Interval], interval: Interval) -> None:
    """Add an interval that does not begin before the last one of `busy`, which stays merged and sorted."""
    if busy and interval[0] <= busy[-1][1]:
        busy[-1] = (busy[-1][0], max(busy[-1][1], interval[1]))
    else:
        busy.append(interval)
