"""The metrics of the meter."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)


class Metrics:
    """Counters of this process; the ledger has the totals."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.messages = Counter(
            "spot_meter_messages",
            "Messages recorded, by kind: counted, repeated, conflict, quarantined.",
            ("kind",),
            registry=registry,
        )
        self.quarantined = Counter(
            "spot_meter_quarantined",
            "Messages put into quarantine, by reason: unreadable, invalid, future, old, unknown_key, unknown_source.",
            ("reason",),
            registry=registry,
        )
        self.unknown = Counter(
            "spot_meter_unknown",
            "Events counted under a name that the configuration does not have, by what it is.",
            ("what",),
            registry=registry,
        )
        self.sealed = Counter("spot_meter_sealed", "Events replaced by their digest.", registry=registry)
        self.batch_seconds = Histogram(
            "spot_meter_batch_seconds", "One batch's transaction.", buckets=BATCH_SECONDS, registry=registry
        )
        self.database_faults = Counter(
            "spot_meter_database_faults", "Transactions that failed and were retried.", registry=registry
        )
        self.backlog = Gauge(
            "spot_meter_backlog", "Messages of the stream that are not in the ledger yet.", registry=registry
        )
        self.usage_stream_bytes = Gauge(
            "spot_meter_usage_stream_bytes", "What the stream of usage holds, on each server.", registry=registry
        )
        self.usage_stream_max_bytes = Gauge(
            "spot_meter_usage_stream_max_bytes",
            "The bound of that, above which usage waits in the outboxes. 0: only the server's store is one.",
            registry=registry,
        )
        self.behind = Gauge(
            "spot_meter_behind",
            "Events that the ledger confirmed and no longer has, as after a restore from an older copy.",
            registry=registry,
        )
        self.open_gaps = Gauge(
            "spot_meter_open_gaps",
            "Usage events known to be missing and not declared lost.",
            registry=registry,
        )
        self.usage_missing = Gauge(
            "spot_meter_usage_missing",
            "Usage events that gateways said they wrote and the ledger does not have.",
            registry=registry,
        )
        self.incomplete_days = Gauge(
            "spot_meter_incomplete_days", "Incomplete days of the seven before today.", registry=registry
        )
        self.revocations = Gauge("spot_meter_revocations", "Revoked API keys in the ledger's copy.", registry=registry)
        self.keys_missing = Gauge(
            "spot_meter_keys_missing",
            "Secrets of API keys that the ledger's copy has and the bus lacks.",
            registry=registry,
        )
        self.keys_revived = Gauge(
            "spot_meter_keys_revived",
            "Secrets of API keys that ended by the ledger's copy and that the bus shows as usable.",
            registry=registry,
        )
        self.reread = Counter("spot_meter_reread", "Messages of the stream that were read again.", registry=registry)


class AuditMetrics:
    """Counted by the replica that leads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leading = Gauge("spot_meter_leading", "1 while this replica reads the engines.", registry=registry)
        self.readings = Counter(
            "spot_meter_engine_readings",
            "Reads of engines' counters, by outcome: read, failed, not_kept.",
            ("outcome",),
            registry=registry,
        )
        self.wrong = Gauge(
            "spot_meter_audit_wrong",
            "Counts that disagree, of today and of the days that are not final; NaN where this replica does not lead.",
            registry=registry,
        )
        self.stand_by()

    def stand_by(self) -> None:
        """Another replica leads, and this one's last count is not the present one."""
        self.leading.set(0)
        self.wrong.set(math.nan)


class TelemetryMetrics:
    """What became of the spans for an OpenTelemetry collector."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.spans = Counter(
            "spot_meter_otel_spans",
            "Spans of counted events, by outcome: sent, refused (by the collector), failed, dropped (queue full).",
            ("outcome",),
            registry=registry,
        )
        self.failures = Counter(
            "spot_meter_otel_failures", "Requests to the OpenTelemetry collector that failed.", registry=registry
        )
        for outcome in ("sent", "refused", "failed", "dropped"):
            self.spans.labels(outcome)
