"""What the meter tells Prometheus about the audit."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AuditMetrics:
    """Counted by the replica that leads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leading = Gauge("spot_meter_leading", "1 while this replica reads the engines.", registry=registry)
        self.readings = Counter(
            "spot_meter_engine_readings",
            "Looks at engines' counters, by outcome: read, failed, not_kept.",
            ("outcome",),
            registry=registry,
        )
        self.wrong = Gauge(
            "spot_meter_audit_wrong",
            "Counts that do not agree, of today and the days that are not final.",
            registry=registry,
        )
