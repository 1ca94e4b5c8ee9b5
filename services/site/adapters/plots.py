"""Where the marks of histograms and lines are: in per cent of the drawing, or in its own units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.site.adapters.filters import digits, duration
from services.site.core.distribution import Bin
from services.site.core.performance import Measure

GAP = 0.12
"""The part of a column's place that stays free."""


@dataclass(frozen=True)
class HistogramColumn:
    """One bin: its column from the top, and its words."""

    label: str
    count: int
    x: str
    width: str
    y: str
    height: str


@dataclass(frozen=True)
class HistogramPlot:
    """Columns side by side, each as wide as the others, and lines between them."""

    columns: tuple[HistogramColumn, ...]
    lines: tuple[tuple[str, str], ...]
    """Where each is, and its words."""
    most: int


def histogram_plot(bins: Sequence[Bin], lines: Mapping[str, float], unit: str = "s") -> HistogramPlot:
    """`lines`: the values at which a line stands, by its words; a value that begins no bin has none."""
    most = max((one.count for one in bins), default=0)
    place = 1 / max(1, len(bins))
    columns = tuple(
        HistogramColumn(
            label=_range(one, unit),
            count=one.count,
            x=_percent((number + GAP / 2) * place),
            width=_percent((1 - GAP) * place),
            y=_percent(1 - one.count / (most or 1)),
            height=_percent(one.count / (most or 1)),
        )
        for number, one in enumerate(bins)
    )
    starts = [one.start for one in bins]
    marks = tuple((_percent(starts.index(at) * place), words) for words, at in lines.items() if at in starts)
    return HistogramPlot(columns=columns, lines=marks, most=most)


@dataclass(frozen=True)
class BandPlot:
    """A line of P50 and a band up to P95 over days, in a drawing of 100 by 100. A day without values has no point."""

    line: str
    band: str
    points: tuple[tuple[str, float, float, int], ...]
    """Day, P50 and P95 in milliseconds, and of how many values."""
    most: float


def band_plot(days: Sequence[tuple[str, Measure | None]]) -> BandPlot:
    points = tuple((day, m.p50 * 1000, m.p95 * 1000, m.count) for day, m in days if m is not None)
    most = max((p95 for _, _, p95, _ in points), default=0.0)
    places = [100 * (number + 0.5) / len(points) for number in range(len(points))]
    lower = [f"{x:.2f},{100 - 100 * p50 / (most or 1):.2f}" for x, (_, p50, _, _) in zip(places, points, strict=True)]
    upper = [f"{x:.2f},{100 - 100 * p95 / (most or 1):.2f}" for x, (_, _, p95, _) in zip(places, points, strict=True)]
    return BandPlot(line=" ".join(lower), band=" ".join([*upper, *reversed(lower)]), points=points, most=most)


def _range(one: Bin, unit: str) -> str:
    def text(value: float) -> str | None:
        return duration(value) if unit == "s" else f"{digits(value)} {unit}"

    return f"{text(one.start)} and more" if one.end is None else f"{text(one.start)} to {text(one.end)}"


def _percent(part: float) -> str:
    return f"{part * 100:.3f}%"


GLOBALS: Mapping[str, Any] = {"histogram_plot": histogram_plot, "band_plot": band_plot}
"""Names that templates use."""
