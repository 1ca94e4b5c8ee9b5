"""The demo's invoice: what a provider would deliver, and its parts sum to it."""

import csv
import io
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from services.billing.core.invoice_files.import_settings import ImportSettings
from shared.messages.invoices import DeliveredFile
from shared.messages.waker import MachineState, Transition
from shared.units import to_millis
from spotinference.demo.invoice import COLUMNS, DemoFacts, DemoInvoice, build_invoice, facts_from_journal

MIDNIGHT = 1_795_392_000.0
"""2026-11-23T00:00:00Z"""
MANDATORY = (
    "BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart ChargeCategory "
    "ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost InvoiceIssuerName "
    "ListCost PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory ServiceName"
)
moments = st.floats(MIDNIGHT - 90_000, MIDNIGHT + 90_000)


intervals = st.tuples(moments, moments)


def _made(
    now: float,
    awake: list[tuple[float, float]],
    *,
    since: float | None = None,
    transfers: Sequence[tuple[float, int]] = (),
) -> DemoInvoice:
    facts = DemoFacts(awake=awake, disk=(now if since is None else since, now), transfers=transfers)
    return build_invoice(facts, instance="local-1", disk="vol-1")


def _rows(invoice: DemoInvoice) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(invoice.csv.decode(), newline="")))


def test_it_has_every_mandatory_column_of_focus_1_2() -> None:
    assert set(MANDATORY.split()) <= set(COLUMNS)


def test_every_row_is_for_what_happened() -> None:
    awake = [(MIDNIGHT + 60, MIDNIGHT + 900), (MIDNIGHT + 600, MIDNIGHT + 1860), (MIDNIGHT + 7200, MIDNIGHT + 99_999)]
    transfers = [(MIDNIGHT + 70, 40_000), (MIDNIGHT + 80, 10_000), (MIDNIGHT + 7300, 7)]
    invoice = _made(MIDNIGHT + 9000, awake, since=MIDNIGHT + 30.25, transfers=transfers)
    rows = _rows(invoice)
    assert [
        (row["ServiceCategory"], row["ConsumedQuantity"], row["ChargePeriodStart"][11:], row["ChargePeriodEnd"][11:])
        for row in rows
    ] == [
        ("Compute", "0.500000000", "00:00:00Z", "01:00:00Z"),
        ("Compute", "0.500000000", "02:00:00Z", "03:00:00Z"),
        ("Storage", "0.055088735", "00:00:30.250Z", "01:00:00Z"),
        ("Storage", "0.055555556", "01:00:00Z", "02:00:00Z"),
        ("Storage", "0.027777778", "02:00:00Z", "02:30:00Z"),
        ("Networking", "0.00005", "00:00:00Z", "01:00:00Z"),
        ("Networking", "0.000000007", "02:00:00Z", "03:00:00Z"),
        ("Other", "NULL", "00:00:00Z", "00:00:00Z"),
    ]
    assert [row["BilledCost"] for row in rows[:3]] == ["0.0416000000", "0.0416000000", "0.0044070988"]
    assert (rows[-1]["ChargeCategory"], rows[-1]["PricingQuantity"]) == ("Tax", "NULL")
    assert {row["BillingPeriodEnd"] for row in rows} == {"2026-12-01T00:00:00Z"}
    assert invoice.days == ("2026-11-23",)


def test_a_night_over_the_end_of_a_month_is_charged_in_both() -> None:
    first = 1_793_491_200.0  # 2026-11-01T00:00:00Z
    invoice = _made(first + 60, [(first - 30, first + 30)], since=first - 60)
    assert {row["BillingPeriodStart"] for row in _rows(invoice)} == {"2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"}
    assert invoice.days == ("2026-10-31", "2026-11-01")


@given(now=moments, since=moments, awake=st.lists(intervals, max_size=6))
def test_parts_sum_to_the_total(now: float, since: float, awake: list[tuple[float, float]]) -> None:
    invoice = _made(now, awake, since=since, transfers=[(now, 1234)])
    assert sum(Decimal(row["BilledCost"]) for row in _rows(invoice)) == invoice.total


@pytest.mark.parametrize("awake", [[], [(MIDNIGHT - 60, MIDNIGHT + 900), (MIDNIGHT + 600, MIDNIGHT + 1800)]])
@pytest.mark.parametrize("now", [MIDNIGHT, MIDNIGHT + 0.4, MIDNIGHT + 9000, MIDNIGHT + 86_399.9])
def test_billing_can_read_it(tmp_path: Path, now: float, awake: list[tuple[float, float]]) -> None:
    invoice = _made(now, awake, since=MIDNIGHT - 1, transfers=[(MIDNIGHT, 9)])
    (tmp_path / "demo.csv").write_bytes(invoice.csv)
    reading = DuckdbInvoiceReader(tmp_path, ImportSettings(source="demo"))
    reading.read([(DeliveredFile(name="demo.csv", sha256="0"), tmp_path / "demo.csv")])
    assert reading.refusals == []
    assert sum(part.billed for part in reading.snapshots) == invoice.total
    reading.close()


@given(now=moments, awake=st.lists(intervals, max_size=6))
def test_no_hour_has_more_than_one_hour_nor_the_future_any(now: float, awake: list[tuple[float, float]]) -> None:
    rows = [row for row in _rows(_made(now, awake)) if row["ServiceCategory"] == "Compute"]
    hours = [Decimal(row["ConsumedQuantity"]) for row in rows]
    assert all(0 < quantity <= 1 for quantity in hours)
    ran = [(begin, min(end, now)) for begin, end in awake if begin < min(end, now)]
    span = max((end for _, end in ran), default=0.0) - min((begin for begin, _ in ran), default=0.0)
    assert float(sum(hours)) <= max(0.0, span) / 3600 + 1e-6


@given(begun=st.floats(MIDNIGHT, MIDNIGHT + 1000), ran=st.floats(0.001, 1000))
def test_no_more_is_charged_than_the_books_know_of_the_journal(begun: float, ran: float) -> None:
    states: list[tuple[float, MachineState]] = [(begun - 1, "asleep"), (begun, "waking"), (begun + ran, "asleep")]
    journal = [
        Transition(at=at, machine="m", tier="t", from_state=None, to_state=state, reason="r", generation=0)
        for at, state in states
    ]
    facts = facts_from_journal(journal, [], begun + ran + 1)
    rows = _rows(build_invoice(facts, instance="m", disk="d"))
    charged = sum(Decimal(row["ConsumedQuantity"]) for row in rows if row["ServiceCategory"] == "Compute")
    known = to_millis(begun + ran) - to_millis(begun)
    assert known - 1 < charged * 3_600_000 <= known
