"""The gauges of the books: what does not tie, and what the windows cost."""

import math
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry

from services.billing.app.book_gauges import BookGauges
from services.billing.core.reconciliation import BilledAmount, Payable
from services.billing.metrics import BookMetrics
from shared.messages.billing import DayReport
from shared.messages.invoices import PayableNote
from tests.unit.billing.report_builders import report

NOW = 1_777_852_800.0
"""2026-05-04T00:00:00Z."""
MILLION = 1_000_000
EQUAL = {"input": 1, "cached": 1, "output": 1}


class NoInvoices:
    """A store with nothing in it."""

    async def invoices(self) -> tuple[list[BilledAmount], list[Payable]]:
        return [], []

    async def record(self, note: PayableNote, now: float) -> None:
        raise NotImplementedError


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def gauges(registry: CollectorRegistry, days: dict[str, DayReport]) -> BookGauges:
    async def newest(day: str) -> DayReport | None:
        return days.get(day)

    return BookGauges(NoInvoices(), newest, EQUAL, BookMetrics(registry), now=lambda: NOW)


async def test_windows_show_ratios_of_sums_and_unknown_is_not_zero(registry: CollectorRegistry) -> None:
    days = {f"2026-05-0{n}": report(f"2026-05-0{n}", "10.00", MILLION * n) for n in (1, 2, 3)}
    days |= {f"2026-04-{n}": report(f"2026-04-{n}", "10.00", MILLION) for n in range(27, 31)}
    await gauges(registry, days).refresh()

    def value(name: str, window: str) -> float:
        sample = registry.get_sample_value(f"spot_billing_{name}", {"window": window})
        assert sample is not None
        return sample

    assert (value("spend_usd", "1d"), value("spend_usd", "7d")) == (10.0, 70.0)
    assert value("usd_per_mtok", "1d") == pytest.approx(float(Decimal(10) / 3))
    assert value("usd_per_mtok", "7d") == pytest.approx(7.0)
    assert math.isnan(value("spend_usd", "28d"))
    assert math.isnan(value("usd_per_mtok", "28d"))
    assert registry.get_sample_value("spot_billing_untied_invoices") == 0
