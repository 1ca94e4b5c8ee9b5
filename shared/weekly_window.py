"""Weekly windows of wall-clock time: `"mon-fri 09:00-18:00"`, `"daily 22:00-02:00 Europe/Berlin"`."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EXAMPLE = '"mon-fri 09:00-18:00", "sat,sun 10:00-12:00 Europe/Berlin" or "daily 22:00-02:00"'
_TIMES = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, kw_only=True)
class WeeklyWindow:
    """The minutes from `first` up to but excluding `end`, on `days` (0 is Monday), by the clock of `zone`.

    If `end` is not after `first`, the window continues past midnight and belongs to the day on which it begins. When
    clocks are set forward, the skipped minutes are missing; when they are set back, the repeated ones count twice.
    """

    days: frozenset[int]
    first: int
    """Minutes since midnight."""
    end: int
    zone: tzinfo

    def covers(self, now: float) -> bool:
        clock = datetime.fromtimestamp(now, self.zone)
        day, minute = clock.weekday(), clock.hour * 60 + clock.minute
        if self.first < self.end:
            return day in self.days and self.first <= minute < self.end
        return (day in self.days and minute >= self.first) or ((day - 1) % 7 in self.days and minute < self.end)


def window_fault(text: str) -> str | None:
    """Return what is wrong with a window's text and how to fix it; None if nothing is."""
    try:
        parse_window(text)
    except ValueError as error:
        return str(error)
    return None


def parse_window(text: str) -> WeeklyWindow:
    """Parse `DAYS HH:MM-HH:MM [ZONE]`. Raises `ValueError`."""
    parts = text.split()
    if len(parts) not in (2, 3):
        raise ValueError(f"expected days, times and at most a time zone, such as {EXAMPLE}, got {text!r}")
    first, end = _times(parts[1], text)
    zone = _zone(parts[2] if len(parts) == 3 else "UTC")
    return WeeklyWindow(days=_days(parts[0], text), first=first, end=end, zone=zone)


def _days(part: str, text: str) -> frozenset[int]:
    if part == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for piece in part.split(","):
        names = piece.split("-")
        if len(names) > 2 or any(name not in DAYS for name in names):
            raise ValueError(
                f"{piece!r} in {text!r}: expected daily, or days of {', '.join(DAYS)} such as mon-fri or sat,sun"
            )
        begin, last = DAYS.index(names[0]), DAYS.index(names[-1])
        days.update((begin + n) % 7 for n in range((last - begin) % 7 + 1))
    return frozenset(days)


def _times(part: str, text: str) -> tuple[int, int]:
    match = _TIMES.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} in {text!r}: expected times as HH:MM-HH:MM, such as 09:00-18:00")
    hours, minutes = (int(match[1]), int(match[3])), (int(match[2]), int(match[4]))
    first, end = (hour * 60 + minute for hour, minute in zip(hours, minutes, strict=True))
    if max(minutes) > 59 or first >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise ValueError(f"{part!r} in {text!r}: a day lasts from 00:00 to 24:00")
    if first == end:
        raise ValueError(f"{part!r} in {text!r} is empty: the whole day is 00:00-24:00")
    return first, end


def _zone(name: str) -> tzinfo:
    try:
        # UTC needs no time zone database, which a slim image may lack.
        return ZoneInfo(name) if name != "UTC" else UTC
    except (ValueError, OSError, LookupError) as error:
        raise ValueError(
            f"time zone {name!r} is unknown on this system: write one such as Europe/Berlin (the package tzdata has "
            "them), or leave it out for UTC"
        ) from error
