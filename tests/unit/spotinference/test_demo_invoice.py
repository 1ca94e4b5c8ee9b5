"""The demo's invoice: what a provider would deliver, and its parts sum to it."""

import csv
import io
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.adapters.reader import Reading, Terms
from shared.messages.invoices import DeliveredFile
from spotinference.demo.invoice import COLUMNS, DemoInvoice, demo_invoice

MIDNIGHT = 1_795_392_000.0
"""2026-11-23T00:00:00Z"""
MANDATORY = (
    "BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart ChargeCategory "
    "ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost InvoiceIssuerName "
    "ListCost PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory ServiceName"
)
moments = st.floats(MIDNIGHT - 90_000, MIDNIGHT + 90_000)


def _made(now: float, awake: list[tuple[float, float]]) -> DemoInvoice:
    return demo_invoice(now=now, instance="local-1", disk="vol-1", awake=awake)


def _rows(invoice: DemoInvoice) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(invoice.csv.decode(), newline="")))


def test_it_has_every_mandatory_column_of_focus_1_2() -> None:
    assert set(MANDATORY.split()) <= set(COLUMNS)


def test_the_rows_of_a_day() -> None:
    awake = [(MIDNIGHT - 60, MIDNIGHT + 900), (MIDNIGHT + 600, MIDNIGHT + 1800), (MIDNIGHT + 7200, MIDNIGHT + 99_999)]
    invoice = _made(MIDNIGHT + 9000, awake)
    rows = [row for row in _rows(invoice) if row["ChargePeriodStart"] >= "2026-11-23"]
    assert [
        (row["ServiceCategory"], row["ResourceId"], row["ConsumedQuantity"], row["ChargePeriodStart"][11:16])
        for row in rows
    ] == [
        ("Compute", "local-1", "0.500000000", "00:00"),
        ("Compute", "local-1", "0.500000000", "02:00"),
        ("Storage", "vol-1", "1.333333333", "00:00"),
        ("Networking", "NULL", "0.75", "00:00"),
        ("Other", "NULL", "NULL", "00:00"),
    ]
    assert [row["BilledCost"] for row in rows[:2]] == ["0.0416000000", "0.0416000000"]
    assert (rows[-1]["ChargeCategory"], rows[-1]["PricingQuantity"]) == ("Tax", "NULL")
    assert {row["BillingPeriodEnd"] for row in rows} == {"2026-12-01T00:00:00Z"}


def test_on_the_first_of_a_month_yesterday_belongs_to_the_period_before() -> None:
    first = 1_793_491_200.0  # 2026-11-01T00:00:00Z
    periods = {row["BillingPeriodStart"] for row in _rows(_made(first + 60, []))}
    assert periods == {"2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"}


@given(now=moments, awake=st.lists(st.tuples(moments, moments), max_size=6))
def test_parts_sum_to_the_total(now: float, awake: list[tuple[float, float]]) -> None:
    invoice = _made(now, awake)
    assert sum(Decimal(row["BilledCost"]) for row in _rows(invoice)) == invoice.total
    assert invoice.yesterday + invoice.today + invoice.tax == invoice.total


@pytest.mark.parametrize("awake", [[], [(MIDNIGHT - 60, MIDNIGHT + 900), (MIDNIGHT + 600, MIDNIGHT + 1800)]])
@pytest.mark.parametrize("now", [MIDNIGHT, MIDNIGHT + 0.4, MIDNIGHT + 9000, MIDNIGHT + 86_399.9])
def test_billing_can_read_it(tmp_path: Path, now: float, awake: list[tuple[float, float]]) -> None:
    invoice = _made(now, awake)
    (tmp_path / "demo.csv").write_bytes(invoice.csv)
    reading = Reading(tmp_path, Terms(source="demo"))
    reading.read([(DeliveredFile(name="demo.csv", sha256="0"), tmp_path / "demo.csv")])
    assert reading.refusals == []
    assert sum(part.billed for part in reading.snapshots) == invoice.total
    reading.close()


@given(now=moments, awake=st.lists(st.tuples(moments, moments), max_size=6))
def test_no_hour_has_more_than_one_hour_nor_the_future_any(now: float, awake: list[tuple[float, float]]) -> None:
    day = now - now % 86_400
    hours = [
        Decimal(row["ConsumedQuantity"])
        for row in _rows(_made(now, awake))
        if row["ServiceCategory"] == "Compute" and row["ConsumedQuantity"] != "1"
    ]
    assert all(0 < quantity <= 1 for quantity in hours)
    latest = max((min(end, now) for begin, end in awake if begin < min(end, now)), default=day)
    earliest = min((max(begin, day) for begin, end in awake if begin < min(end, now)), default=day)
    assert float(sum(hours)) <= max(0.0, latest - earliest) / 3600 + 1e-6
