"""Times as commands read and print them."""

from datetime import UTC, datetime
from itertools import pairwise

from shared.units import DAY_S, HOUR_S, MINUTE_S

_UNITS = (("d", int(DAY_S)), ("h", int(HOUR_S)), ("m", int(MINUTE_S)), ("s", 1))


def today() -> str:
    """Return the current UTC day as `YYYY-MM-DD`."""
    return datetime.now(UTC).date().isoformat()


def parse_time(text: str) -> float:
    """Return an RFC 3339 time in Unix seconds. Without an offset it is UTC.

    Raises:
        ValueError: the text is not a time.
    """
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def format_time(seconds: float) -> str:
    """Format Unix seconds as an RFC 3339 time in UTC, without fractions."""
    return datetime.fromtimestamp(max(0.0, seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_duration(seconds: int) -> str:
    """Format a duration by its two largest units: `45s`, `3m12s`, `2h05m`, `3d04h`."""
    for (large, size), (small, part) in pairwise(_UNITS):
        if seconds >= size:
            return f"{seconds // size}{large}{seconds % size // part:02}{small}"
    return f"{seconds}s"
