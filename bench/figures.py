"""The figures of a run: what each is, its goal, and its median and range over the rounds. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of one round against one target. Latencies in seconds; `core` and `others` are parts of one core."""

    round: int
    cell: str
    target: str
    """`direct` or `gateway`."""
    requests: int
    tokens: int
    rate: float
    """Answers per second."""
    p50: float
    p95: float
    cpu_ns: int
    """The gateway's, until the ledger had confirmed every request of the cell."""
    core: float
    """The gateway's share of its core while the load ran."""
    others: float
    """What anybody else took of that core meanwhile."""
    settle_seconds: float
    """From the last answer to the ledger's confirmation."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """The median of the rounds, and the range they lie in."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    goal: float | None = None
    then: float | None = None
    """The goal after the goal."""


@dataclass(frozen=True)
class _Kind:
    """How one figure is had of a gateway's sample and the direct one of the same round."""

    name: str
    unit: str
    cell: str
    of: str
    goal: float | None = None
    then: float | None = None


KINDS = (
    _Kind("CPU per request, saturated", "µs", "saturated", "cpu_per_request", 80, 40),
    _Kind("requests per second, saturated", "1/s", "saturated", "rate"),
    _Kind("CPU per relayed chunk, 20 streams", "µs", "streams 20", "cpu_per_chunk"),
    _Kind("CPU per relayed chunk, 200 streams", "µs", "streams 200", "cpu_per_chunk", 20, 16),
    _Kind("added p50 at 50 requests/s", "ms", "paced 50", "added_p50"),
    _Kind("added p95 at 50 requests/s", "ms", "paced 50", "added_p95", 0.8, 0.5),
    _Kind("added TTFT p50, 20 streams", "ms", "streams 20", "added_p50", 0.5, 0.35),
    _Kind("added TTFT p95, 20 streams", "ms", "streams 20", "added_p95", 0.7, 0.45),
)


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; `ValueError` without values."""
    if not values:
        raise ValueError("no values: the cell was too short to see any")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def figures(samples: Sequence[Sample]) -> list[Figure]:
    """One of each kind."""
    return [_figure(kind, samples) for kind in KINDS]


def _figure(kind: _Kind, samples: Sequence[Sample]) -> Figure:
    direct = {s.round: s for s in samples if s.cell == kind.cell and s.target == "direct"}
    values = [_value(kind.of, s, direct.get(s.round)) for s in samples if s.cell == kind.cell and s.target == "gateway"]
    return Figure(
        name=kind.name,
        unit=kind.unit,
        value=median(values),
        low=min(values),
        high=max(values),
        goal=kind.goal,
        then=kind.then,
    )


def _value(of: str, sample: Sample, direct: Sample | None) -> float:
    if of == "cpu_per_request":
        return sample.cpu_ns / 1e3 / sample.requests
    if of == "cpu_per_chunk":
        return sample.cpu_ns / 1e3 / sample.tokens
    if of == "rate":
        return sample.rate
    assert direct is not None, "added latencies are measured against a direct call of the same round"
    return (sample.p50 - direct.p50 if of == "added_p50" else sample.p95 - direct.p95) * 1e3
