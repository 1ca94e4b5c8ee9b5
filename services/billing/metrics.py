"""What billing tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """Of this process; the books have the truth."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.imports = Counter(
            "spot_billing_imports", "Invoice files, by outcome: imported, refused.", ("outcome",), registry=registry
        )
        self.reports = Counter(
            "spot_billing_reports", "Day reports asked for, by outcome: told, refused.", ("outcome",), registry=registry
        )
        self.transitions = Counter("spot_billing_transitions", "Machine transitions read.", registry=registry)
        self.unreadable = Counter("spot_billing_unreadable", "Journal entries passed by.", registry=registry)
        self.readings = Counter(
            "spot_billing_bill_readings",
            "Readings of a provider's running bill, by outcome: read, failed.",
            ("provider", "outcome"),
            registry=registry,
        )
        self.leading = Gauge("spot_billing_leading", "1 while this replica does the work.", registry=registry)
        self.gate_open = Gauge("spot_billing_gate_open", "1 while the daily budget allows requests.", registry=registry)
        self.published = Counter("spot_billing_published", "Revisions of day reports published.", registry=registry)
        self.unpublished = Counter(
            "spot_billing_publish_failures", "Reports that could not be made or published.", registry=registry
        )
        self.published_until = Gauge(
            "spot_billing_published_until", "Unix time at which the newest published day ends.", registry=registry
        )
