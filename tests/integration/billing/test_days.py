"""Days as the service tells them: final when the invoices tie, restated afterwards, and together what is payable."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from shared.bus import subjects
from shared.messages.billing import DayReport
from shared.messages.codec import encode
from shared.messages.invoices import Invoices, InvoiceStanding, PayableNote
from tests.integration.billing.billing_service import Billing, billing, configured
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.billing.cost_row_builders import focus_csv

TENTH = {"ChargePeriodStart": "2026-05-10T00:00:00Z", "ChargePeriodEnd": "2026-05-11T00:00:00Z"}
MAY = {"InvoiceId": "MAY-1"}
JUNE = {
    "InvoiceId": "JUNE-1",
    "BillingPeriodStart": "2026-06-01T00:00:00Z",
    "BillingPeriodEnd": "2026-07-01T00:00:00Z",
}

CORRECTED = "spend 300.00 → 270.00 USD (-30.00): charges of source cloud, file bill.csv (1 row added, -30.00)"
VOIDED = (
    "spend 980.00 → 480.00 USD (-500.00): charges of source cloud, invoice A voided (1 row removed, -500.00); "
    "state provisional → final: invoice B ties"
)


@pytest.fixture
async def books(tmp_path: Path, books_url: str) -> AsyncIterator[Billing]:
    async with billing(tmp_path, configured(database_url=books_url)) as (service, _):
        yield service


async def note(books: Billing, invoice: str, amount: str, voids: str | None = None) -> tuple[InvoiceStanding, ...]:
    note = PayableNote(source="cloud", invoice_id=invoice, amount=Decimal(amount), voids=voids)
    answer = await books.bus.request(subjects.BILLING_PAYABLE, encode(note), timeout=PATIENCE_SECONDS)
    return msgspec.json.decode(answer, type=Invoices).standings


def key_figures(report: DayReport) -> tuple[object, ...]:
    return report.state, report.revision, report.spend, report.change


async def test_a_day_is_final_when_its_invoice_ties(books: Billing) -> None:
    await books.deliver(focus_csv({"BilledCost": "300.00", **MAY}))
    assert key_figures(await books.report()) == ("provisional", 1, Decimal(300), None)
    await note(books, "MAY-1", "299.98")
    assert key_figures(await books.report())[:2] == ("provisional", 1)
    await note(books, "MAY-1", "299.99")
    final = await books.report()
    assert key_figures(final) == ("final", 2, Decimal(300), "state provisional → final: invoice MAY-1 ties")
    assert await books.report() == final


async def test_case_05_a_correction_in_a_later_period_restates_its_day_and_moves_no_other(books: Billing) -> None:
    books.meter.served = {"A": 100_000_000}
    await books.deliver(focus_csv({"BilledCost": "300.00", **MAY, **TENTH}, {"BilledCost": "5.00", **MAY}))
    await note(books, "MAY-1", "305.00")
    final, other = await books.report("2026-05-10"), await books.report()
    assert (final.state, final.revision, final.usd_per_mtok) == ("final", 1, Decimal(3))
    await books.deliver(focus_csv({"BilledCost": "-30.00", "ChargeClass": "Correction", **JUNE, **TENTH}))
    restated = await books.report("2026-05-10")
    assert key_figures(restated) == ("restated", 2, Decimal(270), CORRECTED)
    assert restated.usd_per_mtok == Decimal("2.7")
    assert await books.report() == other
    assert (await books.report("2026-06-10")).spend is None
    standing = {s.invoice_id: s.billed for s in await note(books, "JUNE-1", "-30.00")}
    assert standing == {"MAY-1": Decimal(305), "JUNE-1": Decimal(-30)}
    assert (await books.report("2026-05-10")).state == "restated"


async def test_case_21_and_the_days_their_tax_and_the_rounding_are_what_is_payable(books: Billing) -> None:
    week = {**MAY, "BillingPeriodEnd": "2026-05-08T00:00:00Z"}
    whole = {**week, "ChargePeriodStart": "2026-05-01T00:00:00Z", "ChargePeriodEnd": "2026-05-08T00:00:00Z"}
    over = {"ChargePeriodStart": "2026-04-30T23:00:00Z", "ChargePeriodEnd": "2026-05-01T01:00:00Z"}
    await books.deliver(
        focus_csv(
            {"BilledCost": "1000.0000000001", **whole},
            {"BilledCost": "34.5649", **week},
            {"BilledCost": "-0.1", **week, **over, "ChargeCategory": "Credit"},
            {"BilledCost": "200.1", **whole, "ChargeCategory": "Tax", "ResourceId": "NULL"},
        )
    )
    (standing,) = await note(books, "MAY-1", "1234.56")
    days = [await books.report(f"2026-05-{day:02}") for day in range(1, 8)] + [await books.report("2026-04-30")]
    assert {day.state for day in days} == {"final"}
    assert standing.rounding == Decimal("-0.0049000001")
    assert sum((day.spend or 0) + day.tax for day in days) + standing.rounding == Decimal("1234.56")


async def test_case_24_a_charge_without_an_invoice_keeps_the_whole_period_provisional(books: Billing) -> None:
    await books.deliver(focus_csv({"BilledCost": "1.00", **MAY}, {"BilledCost": "2.00", **TENTH}))
    await note(books, "MAY-1", "1.00")
    assert (await books.report()).state == (await books.report("2026-05-10")).state == "provisional"


async def test_case_25_late_usage_restates_and_a_replay_changes_nothing(books: Billing) -> None:
    await books.deliver(focus_csv({"BilledCost": "100.00", **MAY}))
    await note(books, "MAY-1", "100.00")
    final = await books.report()
    assert (final.state, final.usd_per_mtok) == ("final", Decimal(2))
    books.meter.served = {"A": 51_000_000}
    late = await books.report()
    assert key_figures(late) == ("restated", 2, Decimal(100), "tokens 50,000,000 → 51,000,000 (+1,000,000): late usage")
    assert late.usd_per_mtok == Decimal("1.960784313725")
    assert await books.report() == late


async def test_case_27_the_charges_of_a_voided_invoice_do_not_count(books: Billing) -> None:
    await books.deliver(
        focus_csv({"BilledCost": "500.00", "InvoiceId": "A"}, {"BilledCost": "480.00", "InvoiceId": "B"})
    )
    assert (await books.report()).spend == 980
    await note(books, "B", "480.00", voids="A")
    assert key_figures(await books.report()) == ("final", 2, Decimal(480), VOIDED)


async def test_incomplete_usage_keeps_a_settled_day_provisional_with_the_reason(books: Billing) -> None:
    books.meter.reasons = ("3 events of gw-1 are missing",)
    await books.deliver(focus_csv({"BilledCost": "1.00", **MAY}))
    await note(books, "MAY-1", "1.00")
    report = await books.report()
    assert (report.state, report.usage_complete, report.usage_reasons) == ("provisional", False, books.meter.reasons)
    books.meter.reasons = ()
    assert key_figures(await books.report())[3] == "state provisional → final: usage is complete"


async def test_a_period_that_is_not_over_is_not_final(tmp_path: Path) -> None:
    async with billing(tmp_path, configured(), now=1_779_000_000.0) as (books, _):  # 17 May
        await books.deliver(focus_csv({"BilledCost": "1.00", **MAY}))
        await note(books, "MAY-1", "1.00")
        assert (await books.report()).state == "provisional"


@pytest.fixture
def new_york() -> Iterator[None]:
    """Whose clocks change on 8 March 2026."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("new_york")
async def test_days_are_utc_wherever_the_process_is(books: Billing) -> None:
    """Half of a charge over midnight on each of two days in a row: clocks change, in leap years, at the turn of one."""
    pairs = [("2026-03-07", "2026-03-08"), ("2028-02-28", "2028-02-29"), ("2026-12-31", "2027-01-01")]
    times = [{"ChargePeriodStart": f"{a}T12:00:00Z", "ChargePeriodEnd": f"{b}T12:00:00Z"} for a, b in pairs]
    await books.deliver(focus_csv(*({"BilledCost": "8.00", **period} for period in times)))
    for days in pairs:
        assert [(await books.report(day)).spend for day in days] == [4, 4]
