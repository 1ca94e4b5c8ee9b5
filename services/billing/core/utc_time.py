"""UTC days and moments as whole milliseconds since 1970: the books' only unit of time."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from shared.units import DAY_MS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_PATTERN = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?", re.ASCII)


@dataclass(frozen=True)
class Window:
    """From `start` on, before `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return max(0, self.end - self.start)

    def overlap(self, other: "Window") -> "Window":
        start = max(self.start, other.start)
        return Window(start, max(start, min(self.end, other.end)))


def day_window(day: str) -> Window:
    """The day `YYYY-MM-DD`; `ValueError` where that is no date."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", day, re.ASCII):
        raise ValueError(f'expected a date such as "2026-05-31", got {day!r}')
    start = (date.fromisoformat(day) - _EPOCH.date()).days * DAY_MS
    return Window(start, start + DAY_MS)


def day_of(moment: int) -> str:
    return (_EPOCH + timedelta(milliseconds=moment)).date().isoformat()


def parse_time_ms(text: str) -> int:
    """FOCUS's `2026-05-31T00:00:00Z`, also with a fraction, a space or without `Z`: always UTC; else `ValueError`."""
    match = _TIME_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f'expected a UTC time such as "2026-05-31T00:00:00Z", got {text!r}')
    fraction = (match[3] or "").ljust(9, "0")
    if int(fraction[3:]):
        raise ValueError(f"finer than a millisecond: {text!r}")
    whole = datetime.fromisoformat(f"{match[1]}T{match[2]}+00:00") - _EPOCH
    return whole // timedelta(milliseconds=1) + int(fraction[:3])


def format_time(moment: int) -> str:
    """`2026-05-31T00:00:00Z`, with milliseconds where there are some."""
    time = _EPOCH + timedelta(milliseconds=moment)
    return time.isoformat(timespec="milliseconds" if moment % 1000 else "seconds").replace("+00:00", "Z")
