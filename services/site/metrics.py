"""The site's Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class Metrics:
    """Counted by this process since its start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.responses = Counter(
            "spot_site_responses", "Responses, by status and kind of page.", ("status", "page"), registry=registry
        )
        self.render_seconds = Histogram(
            "spot_site_render_seconds",
            "How long a public page took to load and render.",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=registry,
        )
