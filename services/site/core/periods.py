"""The UTC days and months of the reliability page."""

from datetime import UTC, datetime

from shared.units import DAY_S, Millis, to_millis

WINDOW_DAYS = 30
"""How far back the distributions go, today included; months go back to the first wake."""


def window_start(now: float) -> float:
    """Return when the first day of the distributions begins."""
    return now // DAY_S * DAY_S - (WINDOW_DAYS - 1) * DAY_S


def read_from(now: float) -> Millis:
    """Return when the month begins in which the window begins: months before it are over, and do not change."""
    return month_start(month_of(window_start(now)))


def day_of(moment: float) -> str:
    """Return the UTC day of a Unix time: `YYYY-MM-DD`."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"


def month_of_day(day: str) -> str:
    return day[:7]


def month_of(moment: float) -> str:
    """Return the UTC month of a Unix time: `YYYY-MM`."""
    return month_of_day(day_of(moment))


def month_start(month: str) -> Millis:
    return to_millis(datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC).timestamp())


def next_month(month: str) -> str:
    return month_of(month_start(month) / 1000 + 31 * DAY_S)
