"""Budgets, cost and books."""

from deploy.observability.boards.expressions import gauge, rate
from deploy.observability.charts import Board, Chart

MONEY = Board(
    uid="spotinference-money",
    title="spotinference: money",
    description="What the fleet costs today, what whole days cost, and whether the books close.",
    rows={
        "Today": [
            Chart(
                number=1,
                title="Spend of today",
                unit="currencyUSD",
                lines={
                    "{{scope}}": gauge("spot_billing_gate_spend_usd", "scope"),
                    "{{scope}} limit": gauge("spot_billing_gate_limit_usd", "scope"),
                },
            ),
            Chart(
                number=2,
                title="Share of the daily budget",
                unit="percentunit",
                lines={
                    "{{scope}}": (
                        f"{gauge('spot_billing_gate_spend_usd', 'scope')}"
                        f" / {gauge('spot_billing_gate_limit_usd', 'scope')}"
                    )
                },
                limit=1,
            ),
            Chart(
                number=3,
                title="Budget gates",
                unit="short",
                lines={
                    "{{scope}} open": gauge("spot_billing_gate_open", "scope"),
                    "{{scope}} observed": gauge("spot_billing_gate_observed", "scope"),
                },
            ),
        ],
        "Whole days": [
            Chart(
                number=10,
                title="USD per million tokens",
                unit="currencyUSD",
                lines={"{{window}}": gauge("spot_billing_usd_per_mtok", "window")},
                description="Of the windows that end with yesterday. A gap: a day of it has no report yet.",
            ),
            Chart(
                number=11,
                title="Spend",
                unit="currencyUSD",
                lines={"{{window}}": gauge("spot_billing_spend_usd", "window")},
            ),
            Chart(
                number=12,
                title="Spend of seven days by cause",
                unit="currencyUSD",
                lines={"{{cause}}": gauge("spot_billing_cause_usd", "cause", 'window="7d"')},
                stacked=True,
            ),
        ],
        "Books": [
            Chart(
                number=20,
                title="Invoices that do not tie",
                unit="short",
                lines={"invoices": gauge("spot_billing_untied_invoices")},
            ),
            Chart(
                number=21,
                title="Since each source was imported",
                unit="s",
                lines={"{{source}}": f"time() - {gauge('spot_billing_delivered_at', 'source')}"},
            ),
            Chart(
                number=22,
                title="Readings of running bills per hour",
                unit="short",
                lines={
                    "{{provider}} {{outcome}}": (
                        f"3600 * {rate('spot_billing_bill_readings_total', 'provider, outcome')}"
                    )
                },
            ),
        ],
    },
)
