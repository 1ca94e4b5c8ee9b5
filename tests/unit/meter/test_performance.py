"""The metrics of one request, and the distribution over many."""

import pytest

from services.meter.core.performance import (
    PerformanceGroup,
    PerformanceKey,
    build_figures,
    metrics_of,
    requested_hours,
    sketch_events,
)
from services.meter.core.sketch import Sketch
from shared.errors import Rejected
from shared.messages.gateway import UsageEvent
from shared.messages.meter_figures import FiguresQuery, Pace
from tests.unit.meter.events import MIDNIGHT, event

HOUR = int(MIDNIGHT / 3600)


def test_completed_stream_has_every_metric() -> None:
    e = event(duration=160.5, wake_wait=150.0, first_token=0.5, completion_tokens=101, overhead=0.002)
    assert dict(metrics_of(e)) == pytest.approx(
        {"wake_wait": 150.0, "overhead": 0.002, "ttft": 0.5, "ttft_cold": 150.5, "tpot": 0.1, "stream_rate": 10.0}
    )


@pytest.mark.parametrize(
    ("e", "metrics"),
    [
        (event(outcome="failed", wake_wait=2.0), {"wake_wait"}),
        (event(streamed=False), {"overhead"}),
        (event(first_token=None), {"overhead"}),
        (event(outcome="client_closed"), {"overhead", "ttft", "ttft_warm"}),
        (event(outcome="engine_lost"), {"overhead", "ttft", "ttft_warm"}),
        (event(completion_tokens=1), {"overhead", "ttft", "ttft_warm"}),
        (event(completion_tokens=0), {"overhead", "ttft", "ttft_warm"}),
        (event(first_token=1.0, duration=1.0, wake_wait=0.5), {"wake_wait", "overhead", "ttft", "ttft_cold"}),
    ],
)
def test_other_requests_have_only_the_metrics_they_show(e: UsageEvent, metrics: set[str]) -> None:
    assert {metric for metric, _ in metrics_of(e)} == metrics


def test_values_are_sketched_by_hour_tier_model_and_metric() -> None:
    events = [
        event(completed_at=MIDNIGHT + 3599.9, overhead=0.1, streamed=False),
        event(completed_at=MIDNIGHT + 3600.0, overhead=0.2, streamed=False),
        event(completed_at=MIDNIGHT + 1.0, overhead=0.3, streamed=False),
        event(completed_at=MIDNIGHT + 1.0, overhead=0.4, streamed=False, model="a"),
    ]
    sketches = sketch_events(events)
    assert {key: sketch.bins for key, sketch in sketches.items()} == {
        PerformanceKey(HOUR, "l4x2", "qwen", "overhead"): Sketch.of([0.1, 0.3]).bins,
        PerformanceKey(HOUR + 1, "l4x2", "qwen", "overhead"): Sketch.of([0.2]).bins,
        PerformanceKey(HOUR, "l4x2", "a", "overhead"): Sketch.of([0.4]).bins,
    }
    assert list(sketches) == sorted(sketches)


def test_pace_covers_only_minutes_with_tokens() -> None:
    output = [600, *[0] * 50, *[60] * 18, 120]
    query = FiguresQuery(start=MIDNIGHT, end=MIDNIGHT + 3600, by=())
    figures = build_figures(query, {(): PerformanceGroup(output=output, total=[0] * 70)})
    assert figures.rows[0].output == Pace(minutes=20, tokens=1800, p50=1.0, p95=2.0, peak=10.0)
    assert figures.rows[0].total is None


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("start", FiguresQuery(start=MIDNIGHT + 1, end=MIDNIGHT + 3600)),
        ("end", FiguresQuery(start=MIDNIGHT, end=MIDNIGHT + 3599.5)),
        ("end", FiguresQuery(start=MIDNIGHT, end=MIDNIGHT)),
        ("end", FiguresQuery(start=MIDNIGHT, end=MIDNIGHT + 93 * 86400)),
        ("end", FiguresQuery(start=MIDNIGHT, end=float("inf"))),
        ("start", FiguresQuery(start=float("nan"), end=MIDNIGHT)),
        ("by", FiguresQuery(start=MIDNIGHT, end=MIDNIGHT + 3600, by=("key",))),
        ("by", FiguresQuery(start=MIDNIGHT, end=MIDNIGHT + 3600, by=("tier", "tier"))),
    ],
)
def test_invalid_query_is_rejected_with_its_field(field: str, query: FiguresQuery) -> None:
    with pytest.raises(Rejected, match=f"^{field}: "):
        requested_hours(query)
