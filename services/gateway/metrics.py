"""The gateway's metrics; every label value that can be known exists from the start, so that a zero is visible."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FAST = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)


class Metrics:
    """Names begin with `spot_gateway_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "spot_gateway_"
        self.requests = Counter(name + "requests", "Requests that reached an engine.", ["outcome"], registry=registry)
        for outcome in ("completed", "client_closed", "engine_lost", "failed"):
            self.requests.labels(outcome)
        self.refused = Counter(
            name + "refused", "Requests answered with an error of ours.", ["code"], registry=registry
        )
        self.wake_wait = Histogram(
            name + "wake_wait_seconds", "Time held for a wake.", buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            name + "first_byte_seconds",
            "Arrival to first byte, held time left out.",
            buckets=SECONDS,
            registry=registry,
        )
        self.overhead = Histogram(
            name + "overhead_seconds", "Arrival to forwarded, held time left out.", buckets=FAST, registry=registry
        )
        self._registry = registry

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge("spot_gateway_" + name, text, registry=self._registry).set_function(value)
