"""How fast the service was: the metrics of one request, and the distribution over many."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from services.meter.core.dimensions import check_dimensions
from services.meter.core.sketch import RELATIVE_ERROR, Sketch
from shared.errors import Rejected
from shared.messages.gateway import UsageEvent
from shared.messages.meter_figures import Figures, FiguresQuery, FiguresRow, Pace, Spread
from shared.percentiles import nearest_rank
from shared.units import DAY_S, HOUR_S, MINUTE_S

DIMENSIONS = ("tier", "model", "day", "hour")
MAX_DAYS = 92
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, order=True)
class PerformanceKey:
    hour: int
    """Unix time of the completion / 3600, rounded down."""
    tier: str
    model: str
    metric: str


def metrics_of(e: UsageEvent) -> Iterator[tuple[str, float]]:
    """Yield the metrics that one request has: seconds, and tokens per second.

    Only a stream shows when its first token came, and only a completed one how fast the others followed.
    """
    if e.wake_wait > 0:
        yield "wake_wait", e.wake_wait
    if e.outcome == "failed":
        return
    yield "overhead", e.overhead
    if not e.streamed or e.first_token is None:
        return
    yield "ttft", e.first_token
    if e.wake_wait > 0:
        yield "ttft_cold", e.wake_wait + e.first_token
    else:
        yield "ttft_warm", e.first_token
    following, seconds = e.completion_tokens - 1, e.duration - e.wake_wait - e.first_token
    if e.outcome == "completed" and following > 0 and seconds > 0:
        yield "tpot", seconds / following
        yield "stream_rate", following / seconds


def sketch_events(events: Iterable[UsageEvent]) -> dict[PerformanceKey, Sketch]:
    """Return one sketch per key, sorted, so that two writers lock the same rows in the same order."""
    values: defaultdict[tuple[int, str, str, str], list[float]] = defaultdict(list)
    for e in events:
        hour, tier, model = math.floor(e.completed_at / HOUR_S), e.tier, e.model
        for metric, value in metrics_of(e):
            values[hour, tier, model, metric].append(value)
    return {PerformanceKey(*key): Sketch.of(group) for key, group in sorted(values.items())}


def requested_hours(query: FiguresQuery) -> tuple[int, int]:
    """Return the query's hours, end exclusive; raises `Rejected` with the name of the wrong field."""
    for name in ("start", "end"):
        if getattr(query, name) % HOUR_S:
            raise Rejected(f"{name}: expected a whole hour in Unix seconds, got {getattr(query, name)!r}")
    if not 0 < query.end - query.start <= MAX_DAYS * DAY_S:
        raise Rejected(f"end: expected up to {MAX_DAYS} days after start")
    check_dimensions(query.by, DIMENSIONS)
    return int(query.start / HOUR_S), int(query.end / HOUR_S)


@dataclass
class PerformanceGroup:
    """What the ledger has under one combination of the requested dimensions."""

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


def build_figures(query: FiguresQuery, groups: Mapping[tuple[str, ...], PerformanceGroup]) -> Figures:
    rows = (
        FiguresRow(
            dimensions=dict(zip(query.by, values, strict=True)),
            measures={metric: _spread(sketch) for metric, sketch in sorted(group.sketches.items())},
            output=_pace(group.output),
            total=_pace(group.total),
        )
        for values, group in sorted(groups.items())
    )
    return Figures(start=query.start, end=query.end, relative_error=RELATIVE_ERROR, rows=tuple(rows))


def _spread(sketch: Sketch) -> Spread:
    p50, p95, p99 = sketch.quantiles(QUANTILES)
    return Spread(count=sketch.count, mean=sketch.mean, p50=p50, p95=p95, p99=p99)


def _pace(minutes: Iterable[int]) -> Pace | None:
    """Return exact figures; None if no minute had tokens."""
    busy = sorted(tokens for tokens in minutes if tokens)
    if not busy:
        return None
    p50, p95 = (busy[nearest_rank(q, len(busy))] / MINUTE_S for q in (0.5, 0.95))
    return Pace(minutes=len(busy), tokens=sum(busy), p50=p50, p95=p95, peak=busy[-1] / MINUTE_S)
