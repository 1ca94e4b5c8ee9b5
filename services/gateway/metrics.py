"""All metrics of the gateway. Every known label value exists from the start, so that a zero is visible.

They are plain numbers that requests change and a scrape reads: prometheus-client's own counters would cost a lock and a
lookup each, several times per relayed token.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.messages.gateway import UsageEvent

PREFIX = "spot_gateway_"
OUTCOMES = ("completed", "client_closed", "engine_lost", "failed")
LIMITS = ("requests", "tokens", "concurrency", "month", "waiting", "waiting_per_key", "wakes", "wake_cost")

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 480, 600)
GAP = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
FAST = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)


class Histogram:
    """Counts observations, in seconds, by upper bounds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, text: str) -> Metric:
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self._sum)


class Metrics(Collector):
    """The counters and gauges, whose names begin with `spot_gateway_`."""

    def __init__(self, registry: CollectorRegistry, limit_hits: Counter[str]) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        """By status and, for a gateway error, its code."""
        self.without_key = 0
        """Responses to requests without a valid key."""
        self.unlogged: Callable[[], int] = lambda: 0
        """Returns how many of them were left out of the access log."""
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.tokens: Counter[str] = Counter(dict.fromkeys(("prompt", "cached", "completion", "reasoning"), 0))
        """By direction."""
        self.limit_hits = limit_hits
        """By limit; `RateLimiter` counts the limits of keys itself."""
        self.limit_hits.update(dict.fromkeys(LIMITS, 0))
        self.failovers = self.faults = 0
        self.wake_wait, self.first_byte = Histogram(SECONDS), Histogram(SECONDS)
        self.chunk_gap, self.overhead = Histogram(GAP), Histogram(FAST)
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        registry.register(self)

    def add_gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        self._gauges.append((name, text, value))

    def count(self, event: UsageEvent) -> None:
        """Count a request that reached an engine."""
        self.outcomes[event.outcome] += 1
        self.tokens["prompt"] += event.prompt_tokens
        self.tokens["cached"] += event.cached_tokens
        self.tokens["completion"] += event.completion_tokens
        self.tokens["reasoning"] += event.reasoning_tokens
        self.overhead.observe(event.overhead)
        if event.first_token is not None:
            self.first_byte.observe(event.first_token)

    def collect(self) -> Iterator[Metric]:
        unlogged = "Requests without a valid key that the access log left out because there were too many."
        counters: tuple[tuple[str, str, tuple[str, ...], Mapping[Any, int]], ...] = (
            ("answers", "Responses, by status and, for a gateway error, its code.", ("status", "code"), self.answers),
            ("without_key", "Requests without a valid key.", (), {(): self.without_key}),
            ("without_key_unlogged", unlogged, (), {(): self.unlogged()}),
            ("requests", "Requests that reached an engine.", ("outcome",), self.outcomes),
            ("tokens", "Tokens, as in the usage events.", ("direction",), self.tokens),
            ("limit_hits", "Requests rejected by a limit.", ("limit",), self.limit_hits),
            ("failovers", "Requests that moved to a second machine.", (), {(): self.failovers}),
            ("faults", "Internal errors while relaying a response; each is logged.", (), {(): self.faults}),
        )
        for name, text, labels, counts in counters:
            family = CounterMetricFamily(PREFIX + name, text, labels=labels)
            for key, count in counts.items():
                family.add_metric([str(label) for label in (key if isinstance(key, tuple) else (key,))], count)
            yield family
        for name, text, histogram in (
            ("wake_wait_seconds", "Time held for a wake.", self.wake_wait),
            (
                "first_byte_seconds",
                "Time from arrival to the first byte, without the wait for a wake.",
                self.first_byte,
            ),
            (
                "chunk_gap_seconds",
                "Time between two pieces of a stream, as they arrive from an engine.",
                self.chunk_gap,
            ),
            ("overhead_seconds", "Time from arrival to forwarding, without the wait for a wake.", self.overhead),
        ):
            yield histogram.family(PREFIX + name, text)
        for name, text, value in self._gauges:
            yield GaugeMetricFamily(PREFIX + name, text, value=value())
