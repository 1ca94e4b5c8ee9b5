"""Billing's Prometheus metrics."""

import math
from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.messages.billing import CAUSES, ReportFigures
from shared.messages.budget import BudgetGate


class Metrics:
    """Counted by this process; the database has the authoritative figures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.imports = Counter(
            "spot_billing_imports", "Invoice files, by outcome: imported, refused.", ("outcome",), registry=registry
        )
        self.fetches = Counter(
            "spot_billing_fetches",
            "Looks at a configured source of invoices, by outcome: good, failed.",
            ("source", "outcome"),
            registry=registry,
        )
        self.delivered_at = Gauge(
            "spot_billing_delivered_at",
            "Unix time of the last good look at a source, or of the first one.",
            ("source",),
            registry=registry,
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
        self._gates = {
            name: Gauge(f"spot_billing_gate_{name}", what, ("scope",), registry=registry)
            for name, what in (
                ("open", "1 while the scope's daily budget allows requests."),
                ("warning", "1 while its spend is over the warning's share of it."),
                ("observed", "1 while its spend of today is known."),
                ("spend_usd", "Today's spend, as last known."),
                ("limit_usd", "Its daily budget."),
            )
        }
        self.published = Counter("spot_billing_published", "Revisions of day reports published.", registry=registry)
        self.unpublished = Counter(
            "spot_billing_publish_failures", "Reports that could not be made or published.", registry=registry
        )

    def gate(self, scope: str, gate: BudgetGate) -> None:
        """Show a budget gate as it is on the bus."""
        values: dict[str, Decimal | bool] = {
            "open": gate.open,
            "warning": gate.warning,
            "observed": gate.observed,
            "spend_usd": gate.spend,
            "limit_usd": gate.limit,
        }
        for name, value in values.items():
            self._gates[name].labels(scope).set(float(value))

    def stand_by(self) -> None:
        """Another replica leads: forget the sources, which only the leader fetches."""
        self.leading.set(0)
        self.delivered_at.clear()


class BookMetrics:
    """What the books say, the same on every replica. NaN is unknown, which is not zero."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.untied = Gauge(
            "spot_billing_untied_invoices", "Invoices whose charges differ from what is payable.", registry=registry
        )
        self.published_until = Gauge(
            "spot_billing_published_until",
            "Unix time at which the newest published day ends; 0 if none is.",
            registry=registry,
        )
        self.published_until.set(math.nan)
        self._spend = Gauge(
            "spot_billing_spend_usd", "Spend of whole days up to yesterday.", ("window",), registry=registry
        )
        self._price = Gauge(
            "spot_billing_usd_per_mtok", "USD per million tokens in the same days.", ("window",), registry=registry
        )
        self._causes = Gauge(
            "spot_billing_cause_usd", "The same spend by cause.", ("window", "cause"), registry=registry
        )

    def show_window(self, window: str, period: ReportFigures | None) -> None:
        """Show the spend and the cost per million tokens of a window; None: a day of it has no report."""
        spend, price = (None, None) if period is None else (period.spend, period.usd_per_mtok)
        for gauge, value in ((self._spend, spend), (self._price, price)):
            gauge.labels(window).set(_gauge_value(value))
        for cause in CAUSES:
            # Where a bill is missing, the causes are those of the part that is known.
            cost = None if spend is None or period is None else period.causes.get(cause)
            self._causes.labels(window, cause).set(_gauge_value(cost))


def _gauge_value(amount: Decimal | None) -> float:
    return math.nan if amount is None else float(amount)
