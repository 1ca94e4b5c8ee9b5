"""The figures of a run: what each is, its goals, and its median and range over the rounds. No I/O."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import msgspec

from bench.load import Series
from bench.sampler import FLOOD, NOISE, PACED, SATURATED, STREAMS_20, STREAMS_200, Sample
from bench.targets import DIRECT, NAIVE

Table = Literal["request", "chunk", "latency", "memory", "held"]


class Spread(msgspec.Struct, frozen=True):
    """The median of the rounds, and the range they lie in."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> "Spread":
        each = list(values)
        return Spread(median(each), min(each), max(each))


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a table; of the table `held` one row."""

    name: str
    unit: str
    table: Table
    by_target: dict[str, Spread]
    goal: float | None = None
    """An upper bound for the gateway."""
    next_goal: float | None = None
    added: bool = False
    """Whether it is what a target adds to the direct call, whose own value the table has in brackets."""
    noisy: tuple[str, ...] = ()
    """The targets in whose cells others took more than `NOISE` of a core."""

    @property
    def title(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Kind:
    """How one figure is had of a sample and another one of the same round: the direct call's, or naive's."""

    name: str
    unit: str
    table: Table
    cell: str
    of: Callable[[Sample, Sample], float]
    goal: float | None = None
    next_goal: float | None = None
    beside: str = DIRECT
    of_direct: bool = False
    """Whether it is one of the direct call, too."""
    added: bool = False


def _cpu_per_request(sample: Sample, _other: Sample) -> float:
    return sample.cpu_us_per_request


def _cpu_per_chunk(sample: Sample, _other: Sample) -> float:
    return sample.cpu_us_per_chunk


def _request_ratio(sample: Sample, naive: Sample) -> float:
    return sample.cpu_us_per_request / naive.cpu_us_per_request


def _chunk_ratio(sample: Sample, naive: Sample) -> float:
    return sample.cpu_us_per_chunk / naive.cpu_us_per_chunk


def _kernel_part(sample: Sample, _other: Sample) -> float:
    return 100 * sample.kernel_ns / sample.cpu_ns


def _added(
    name: str, cell: str, of: Callable[[Sample], Series], percentile: str, *goals: float, table: Table = "latency"
) -> Kind:
    """Of the direct call it is the value itself."""

    def milliseconds(sample: Sample, direct: Sample) -> float:
        own: float = getattr(of(sample), percentile)
        taken_off: float = 0.0 if sample is direct else getattr(of(direct), percentile)
        return (own - taken_off) * 1e3

    goal, next_goal = goals or (None, None)
    title = f"added {name}{percentile.upper()}, {cell}"
    return Kind(title, "ms", table, cell, milliseconds, goal, next_goal, of_direct=True, added=True)


def _wait(sample: Sample) -> Series:
    return sample.wait


def _transit(sample: Sample) -> Series:
    return sample.transit


KINDS = (
    Kind("CPU per request, saturated", "µs", "request", SATURATED, _cpu_per_request),
    Kind("CPU per request ÷ naive", "", "request", SATURATED, _request_ratio, 0.65, 0.5, NAIVE),
    Kind("kernel's part, saturated", "%", "request", SATURATED, _kernel_part),
    Kind("requests/s, saturated", "", "request", SATURATED, lambda s, _: s.result.rate, of_direct=True),
    _added("", PACED, _wait, "p50", table="request"),
    _added("", PACED, _wait, "p95", 1.0, 0.7, table="request"),
    _added("", PACED, _wait, "p99", table="request"),
    Kind("CPU per chunk, 200 streams", "µs", "chunk", STREAMS_200, _cpu_per_chunk),
    Kind("CPU per chunk at 200 streams ÷ naive", "", "chunk", STREAMS_200, _chunk_ratio, 0.53, 0.43, NAIVE),
    Kind("kernel's part, 200 streams", "%", "chunk", STREAMS_200, _kernel_part),
    Kind("CPU per chunk, 20 streams", "µs", "chunk", STREAMS_20, _cpu_per_chunk),
    Kind("CPU per chunk at 20 streams ÷ naive", "", "chunk", STREAMS_20, _chunk_ratio, beside=NAIVE),
    Kind("chunks/s, flood", "", "chunk", FLOOD, lambda s, _: s.result.token_rate, of_direct=True),
    _added("TTFT ", STREAMS_20, _wait, "p50", 0.6, 0.4),
    _added("TTFT ", STREAMS_20, _wait, "p95", 0.8, 0.6),
    _added("TTFT ", STREAMS_20, _wait, "p99"),
    _added("token transit ", STREAMS_20, _transit, "p50"),
    _added("token transit ", STREAMS_20, _transit, "p99"),
    Kind("gap P99, 20 streams", "ms", "latency", STREAMS_20, lambda s, _: s.gap.p99 * 1e3, of_direct=True),
)


def figures(samples: Sequence[Sample]) -> list[Figure]:
    """One of each kind, and for each of their tables how much others took meanwhile at most."""
    return [
        *(_figure(kind, samples) for kind in KINDS),
        *(_others(table, samples) for table in ("request", "chunk", "latency")),
    ]


def _figure(kind: Kind, samples: Sequence[Sample]) -> Figure:
    here = [s for s in samples if s.cell == kind.cell]
    beside = {s.round: s for s in here if s.target == kind.beside}
    values: dict[str, list[float]] = {}
    for sample in here:
        if sample.target != DIRECT or kind.of_direct:
            values.setdefault(sample.target, []).append(kind.of(sample, beside[sample.round]))
    return Figure(
        name=kind.name,
        unit=kind.unit,
        table=kind.table,
        by_target={target: Spread.of(of_target) for target, of_target in values.items()},
        goal=kind.goal,
        next_goal=kind.next_goal,
        added=kind.added,
        noisy=tuple(sorted({s.target for s in here if s.foreign > NOISE})),
    )


def _others(table: Table, samples: Sequence[Sample]) -> Figure:
    workloads = {kind.cell for kind in KINDS if kind.table == table}
    shares: dict[str, float] = {}
    for sample in samples:
        if sample.cell in workloads:
            shares[sample.target] = max(shares.get(sample.target, 0.0), 100 * sample.foreign)
    return Figure(
        name="others at most",
        unit="% of a core",
        table=table,
        by_target={target: Spread.of([share]) for target, share in shares.items()},
        noisy=tuple(sorted(target for target, share in shares.items() if share > 100 * NOISE)),
    )
