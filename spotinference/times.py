"""Times as commands read and print them."""

from datetime import UTC, datetime
from itertools import pairwise


def today() -> str:
    """The UTC day, `YYYY-MM-DD`."""
    return datetime.now(UTC).date().isoformat()


UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def span(seconds: int) -> str:
    """`45s`, `3m12s`, `2h05m`, `3d04h`: the two largest units."""
    for (large, size), (small, part) in pairwise(UNITS):
        if seconds >= size:
            return f"{seconds // size}{large}{seconds % size // part:02}{small}"
    return f"{seconds}s"
