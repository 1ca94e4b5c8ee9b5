"""The dimensions by which token sums are grouped: fields of an event, times, and the direction of the tokens."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from shared.errors import Rejected
from shared.messages.meter import TokenSums
from shared.units import MINUTE_S

COLUMNS = {"model": "model", "tier": "tier", "key": "key_id", "machine": "machine", "outcome": "outcome"}
"""The dimensions that are fields of an event."""
TIMES = {"day": 24 * 60, "hour": 60, "minute": 1}
"""The dimensions that are times, in minutes."""
DIRECTION = "direction"
"""`input` (not cached), `cached` and `output`: three rows of each, with the same requests."""
DIMENSIONS = (*TIMES, *COLUMNS, DIRECTION)


def check_dimensions(by: Sequence[str], allowed: Sequence[str]) -> None:
    """Raise `Rejected` for a dimension that is unknown or repeated."""
    for position, dimension in enumerate(by):
        if dimension not in allowed:
            raise Rejected(f"by: {dimension!r} is not a dimension: use any of {', '.join(allowed)}")
        if dimension in by[:position]:
            raise Rejected(f"by: {dimension!r} is repeated")


def format_dimension(dimension: str, value: int | str) -> str:
    """Format a dimension's value for an answer: a time becomes its beginning, in RFC 3339 and UTC."""
    if dimension not in TIMES:
        return str(value)
    at = datetime.fromtimestamp(int(value) * TIMES[dimension] * MINUTE_S, UTC)
    return at.date().isoformat() if dimension == "day" else f"{at:%Y-%m-%dT%H:%M:%SZ}"


def split_by_direction(
    values: tuple[str, ...], sums: TokenSums, by: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], TokenSums]]:
    """Yield the row, or three of it where the direction stands."""
    if DIRECTION not in by:
        yield values, sums
        return
    at = by.index(DIRECTION)
    uncached = sums.prompt_tokens - sums.cached_tokens
    parts = {
        "input": TokenSums(requests=sums.requests, prompt_tokens=uncached),
        "cached": TokenSums(requests=sums.requests, prompt_tokens=sums.cached_tokens, cached_tokens=sums.cached_tokens),
        "output": TokenSums(
            requests=sums.requests, completion_tokens=sums.completion_tokens, reasoning_tokens=sums.reasoning_tokens
        ),
    }
    for direction, part in parts.items():
        yield (*values[:at], direction, *values[at:]), part
