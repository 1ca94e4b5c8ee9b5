"""The figures of a run: what each is, its goals, and its median and range over the rounds. No I/O."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from bench.cells import FLOOD, PACED, SATURATED, STREAMS_20, STREAMS_200, Sample
from bench.load import Series
from bench.targets import DIRECT


class Spread(msgspec.Struct, frozen=True):
    """The median of the rounds, and the range they lie in."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(median(values), min(values), max(values))


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    name: str
    unit: str
    by_target: dict[str, Spread]
    goal: float | None = None
    """An upper bound."""
    then: float | None = None
    """The goal after the goal."""


@dataclass(frozen=True)
class _Kind:
    """How one figure is had of a sample and the direct one of the same round."""

    name: str
    unit: str
    cell: str
    of: Callable[[Sample, Sample], float]
    goal: float | None = None
    then: float | None = None
    of_direct: bool = False
    """Whether it is one of the direct call, too."""


def _cpu_per_request(sample: Sample, _direct: Sample) -> float:
    return sample.cpu_us_per_request


def _cpu_per_chunk(sample: Sample, _direct: Sample) -> float:
    return sample.cpu_us_per_chunk


def _added(take: Callable[[Series], float]) -> Callable[[Sample, Sample], float]:
    return lambda sample, direct: (take(sample.wait) - take(direct.wait)) * 1e3


def _added_transit(take: Callable[[Series], float]) -> Callable[[Sample, Sample], float]:
    return lambda sample, direct: (take(sample.transit) - take(direct.transit)) * 1e3


KINDS = (
    _Kind("CPU per request, saturated", "µs", SATURATED, _cpu_per_request, 80, 40),
    _Kind("CPU per relayed chunk, 200 streams", "µs", STREAMS_200, _cpu_per_chunk, 20, 16),
    _Kind("CPU per relayed chunk, 20 streams", "µs", STREAMS_20, _cpu_per_chunk),
    _Kind("added TTFT P50, 20 streams", "ms", STREAMS_20, _added(lambda s: s.p50), 0.5, 0.35),
    _Kind("added TTFT P95, 20 streams", "ms", STREAMS_20, _added(lambda s: s.p95), 0.7, 0.45),
    _Kind("added TTFT P99, 20 streams", "ms", STREAMS_20, _added(lambda s: s.p99)),
    _Kind("added token transit P50, 20 streams", "ms", STREAMS_20, _added_transit(lambda s: s.p50)),
    _Kind("added token transit P99, 20 streams", "ms", STREAMS_20, _added_transit(lambda s: s.p99)),
    _Kind("gap between tokens P99, 20 streams", "ms", STREAMS_20, lambda s, _: s.gap.p99 * 1e3, of_direct=True),
    _Kind("added P50, 50 requests/s", "ms", PACED, _added(lambda s: s.p50)),
    _Kind("added P95, 50 requests/s", "ms", PACED, _added(lambda s: s.p95), 0.8, 0.5),
    _Kind("added P99, 50 requests/s", "ms", PACED, _added(lambda s: s.p99)),
    _Kind("requests/s, saturated", "1/s", SATURATED, lambda s, _: s.told.rate, of_direct=True),
    _Kind("chunks/s, saturated", "1/s", FLOOD, lambda s, _: s.told.token_rate, of_direct=True),
)


def figures(samples: Sequence[Sample]) -> list[Figure]:
    """One of each kind."""
    return [_figure(kind, samples) for kind in KINDS]


def _figure(kind: _Kind, samples: Sequence[Sample]) -> Figure:
    here = [s for s in samples if s.cell == kind.cell]
    direct = {s.round: s for s in here if s.target == DIRECT}
    values: dict[str, list[float]] = {}
    for sample in here:
        if sample.target != DIRECT or kind.of_direct:
            values.setdefault(sample.target, []).append(kind.of(sample, direct[sample.round]))
    return Figure(
        name=kind.name,
        unit=kind.unit,
        by_target={target: Spread.of(of_target) for target, of_target in values.items()},
        goal=kind.goal,
        then=kind.then,
    )
