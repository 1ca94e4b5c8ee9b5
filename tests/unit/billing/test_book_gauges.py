"""The gauges of the books: what does not tie, and what the windows cost."""

import math
from collections.abc import Collection, Mapping
from decimal import Decimal
from types import MappingProxyType

import pytest
from prometheus_client import CollectorRegistry

from services.billing.app.book_gauges import BookGauges
from services.billing.core.reconciliation import BilledAmount, Payable
from services.billing.metrics import BookMetrics
from shared.messages.billing import CAUSES, DayReport, FigureState, Published
from shared.messages.invoices import PayableNote
from tests.unit.billing.report_builders import report

NOW = 1_777_852_800.0
"""2026-05-04T00:00:00Z."""
MILLION = 1_000_000
NOTHING: Mapping[str, Published] = MappingProxyType({})
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


def gauges(
    registry: CollectorRegistry,
    days: dict[str, DayReport],
    publications: Mapping[str, Published] = MappingProxyType({}),
) -> BookGauges:
    async def newest(window: Collection[str]) -> Mapping[str, DayReport]:
        return {day: report for day, report in days.items() if day in window}

    async def published(day: str) -> Published | None:
        return publications.get(day)

    metrics = BookMetrics(registry)
    return BookGauges(NoInvoices(), newest, EQUAL, metrics, published=published, now=lambda: NOW)


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


async def test_newest_publication_on_the_bus_shows_on_every_replica(registry: CollectorRegistry) -> None:
    """Whoever published it; a day whose publication was withdrawn does not count."""
    name = "spot_billing_published_until"
    before = gauges(registry, {})
    unknown = registry.get_sample_value(name)
    assert unknown is not None
    assert math.isnan(unknown), "it is not known yet"
    await before.refresh()
    assert registry.get_sample_value(name) == 0
    states: dict[str, FigureState | None] = {"2026-05-03": None, "2026-05-02": "final", "2026-05-01": "final"}
    publications = {
        day: Published(day=day, revision=1, state=state, usd_per_mtok=None, change="", files=(), at=NOW)
        for day, state in states.items()
    }
    other = CollectorRegistry()
    await gauges(other, {}, publications).refresh()
    assert other.get_sample_value(name) == NOW - 24 * 3600


async def test_causes_sum_to_the_spend_and_are_unknown_with_it(registry: CollectorRegistry) -> None:
    await gauges(registry, {"2026-05-03": report("2026-05-03", "10.00", MILLION)}).refresh()

    def causes(window: str) -> list[float]:
        values = (registry.get_sample_value("spot_billing_cause_usd", {"window": window, "cause": c}) for c in CAUSES)
        return [value for value in values if value is not None]

    assert len(causes("1d")) == len(CAUSES)
    assert sum(causes("1d")) == pytest.approx(10.0)
    assert all(math.isnan(value) for value in causes("7d"))
