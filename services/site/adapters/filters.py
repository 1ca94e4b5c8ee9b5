"""How pages write times, durations and numbers."""

from collections.abc import Callable, Mapping
from itertools import pairwise

from shared.units import DAY_S, HOUR_S, MINUTE_S

_UNITS = (("d", int(DAY_S)), ("h", int(HOUR_S)), ("min", int(MINUTE_S)), ("s", 1))


def utc(moment: str | None) -> str | None:
    """Write an RFC 3339 time in UTC as people read it, to the second."""
    return None if moment is None else f"{moment[:10]} {moment[11:19]} UTC"


def duration(seconds: float | None) -> str | None:
    """Write a duration by its two largest units: `45 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{digits(seconds)} s"
    whole = round(seconds)
    for (large, size), (small, part) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def digits(number: float | None) -> str | None:
    """Write a measured number with three significant digits."""
    if number is None:
        return None
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{digits(seconds * 1000)} ms"


def percent(part: float | None) -> str | None:
    """Write a share in per cent. Only all of it is 100 %, and only nothing is 0 %."""
    if part is None:
        return None
    if 0.9999 <= part < 1:
        return "> 99.99 %"
    return "< 0.01 %" if 0 < part < 0.0001 else f"{part * 100:.2f} %"


FILTERS: Mapping[str, Callable[..., str | None]] = {
    "utc": utc,
    "duration": duration,
    "digits": digits,
    "milliseconds": milliseconds,
    "percent": percent,
}
