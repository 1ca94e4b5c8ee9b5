"""Lengths of time and the type of milliseconds. A bare `float` of time is in seconds; a `Millis` never is."""

from typing import NewType

MINUTE_S = 60.0
HOUR_S = 3_600.0
DAY_S = 86_400.0
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

Millis = NewType("Millis", int)
"""Whole milliseconds: a length, or a moment since 1970."""


def to_millis(seconds: float) -> Millis:
    return Millis(round(seconds * 1000))


def to_seconds(millis: Millis) -> float:
    return millis / 1000
