"""How fast the service was: what one request says about it, and what many say together."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from services.meter.core.rollups import MINUTE
from services.meter.core.sequence_ranges import DAY
from services.meter.core.sketch import RELATIVE_ERROR, Sketch
from shared.messages.gateway import UsageEvent
from shared.messages.meter_figures import Figures, FiguresQuery, FiguresRow, Pace, Spread

HOUR = 3600.0
DIMENSIONS = ("tier", "model", "day", "hour")
LONGEST_DAYS = 92
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, order=True)
class PerformanceKey:
    hour: int
    """Unix time of the completion / 3600, rounded down."""
    tier: str
    model: str
    metric: str


def metrics_of(e: UsageEvent) -> Iterator[tuple[str, float]]:
    """What one request says, metric by metric: seconds, and tokens per second.

    Only a stream shows when its first token came, and only one that was completed how fast the others followed.
    """
    if e.wake_wait > 0:
        yield "wake_wait", e.wake_wait
    if e.outcome == "failed":
        return
    yield "overhead", e.overhead
    if not e.streamed or e.first_token is None:
        return
    yield "ttft", e.first_token
    following, seconds = e.completion_tokens - 1, e.duration - e.wake_wait - e.first_token
    if e.outcome == "completed" and following > 0 and seconds > 0:
        yield "tpot", seconds / following
        yield "stream_rate", following / seconds


def sketch_events(events: Iterable[UsageEvent]) -> dict[PerformanceKey, Sketch]:
    """Sorted, so that two writers lock the same rows in the same order."""
    values: defaultdict[tuple[int, str, str, str], list[float]] = defaultdict(list)
    for e in events:
        hour, tier, model = math.floor(e.completed_at / HOUR), e.tier, e.model
        for metric, value in metrics_of(e):
            values[hour, tier, model, metric].append(value)
    return {PerformanceKey(*key): Sketch.of(found) for key, found in sorted(values.items())}


def requested_hours(query: FiguresQuery) -> tuple[int, int]:
    """The hours asked for, the end exclusive; `ValueError` that names the wrong field."""
    for name in ("start", "end"):
        if getattr(query, name) % HOUR:
            raise ValueError(f"{name}: expected a whole hour in Unix seconds, got {getattr(query, name)!r}")
    if not 0 < query.end - query.start <= LONGEST_DAYS * DAY:
        raise ValueError(f"end: expected up to {LONGEST_DAYS} days after start")
    for position, dimension in enumerate(query.by):
        if dimension not in DIMENSIONS:
            raise ValueError(f"by: {dimension!r} is no dimension: use any of {', '.join(DIMENSIONS)}")
        if dimension in query.by[:position]:
            raise ValueError(f"by: {dimension!r} is asked for twice")
    return int(query.start / HOUR), int(query.end / HOUR)


@dataclass
class PerformanceGroup:
    """What the ledger has under one combination of the dimensions asked for."""

    sketches: dict[str, Sketch] = field(default_factory=dict)
    output: list[int] = field(default_factory=list)
    """Completion tokens of each minute."""
    total: list[int] = field(default_factory=list)
    """The same with prompt tokens."""

    def add(self, metric: str, sketch: Sketch) -> None:
        if metric in self.sketches:
            self.sketches[metric].merge(sketch)
        else:
            self.sketches[metric] = sketch


def build_figures(query: FiguresQuery, found: Mapping[tuple[str, ...], PerformanceGroup]) -> Figures:
    rows = (
        FiguresRow(
            dimensions=dict(zip(query.by, values, strict=True)),
            measures={metric: _spread(sketch) for metric, sketch in sorted(gathered.sketches.items())},
            output=_pace(gathered.output),
            total=_pace(gathered.total),
        )
        for values, gathered in sorted(found.items())
    )
    return Figures(start=query.start, end=query.end, relative_error=RELATIVE_ERROR, rows=tuple(rows))


def _spread(sketch: Sketch) -> Spread:
    p50, p95, p99 = sketch.quantiles(QUANTILES)
    return Spread(count=sketch.count, mean=sketch.mean, p50=p50, p95=p95, p99=p99)


def _pace(minutes: Iterable[int]) -> Pace | None:
    """Exact; None where no minute had tokens."""
    busy = sorted(tokens for tokens in minutes if tokens)
    if not busy:
        return None
    p50, p95 = (busy[math.floor(q * (len(busy) - 1))] / MINUTE for q in (0.5, 0.95))
    return Pace(minutes=len(busy), tokens=sum(busy), p50=p50, p95=p95, peak=busy[-1] / MINUTE)
