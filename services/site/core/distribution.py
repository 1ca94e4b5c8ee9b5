"""Distributions as pages show them: exact percentiles with their count, and a histogram."""

from collections.abc import Iterable, Sequence

import msgspec

from shared.percentiles import nearest_rank

FEW = 20
"""A percentile of fewer values is shown with their number, since a single one moves it."""


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Values in seconds. Percentiles are values that occurred, at the nearest rank, as in the command's figures."""

    count: int
    p50: float | None = None
    p95: float | None = None
    worst: float | None = None


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """How many values are from `start` up to `end`, end exclusive. `end` None: all that are longer."""

    start: float
    end: float | None
    count: int


def distribution(values: Iterable[float]) -> Distribution:
    ordered = sorted(values)
    if not ordered:
        return Distribution(count=0)
    p50, p95 = (ordered[nearest_rank(q, len(ordered))] for q in (0.5, 0.95))
    return Distribution(count=len(ordered), p50=p50, p95=p95, worst=ordered[-1])


def histogram(values: Iterable[float], *, edges: Sequence[float]) -> tuple[Bin, ...]:
    """Count the values between the edges, which rise from 0, and those beyond the last."""
    ends: list[float | None] = [*edges[1:], None]
    counts = [0] * len(edges)
    for value in values:
        place = next(i for i, end in enumerate(ends) if end is None or value < end)
        counts[place] += 1
    return tuple(Bin(start=s, end=e, count=n) for s, e, n in zip(edges, ends, counts, strict=True))
