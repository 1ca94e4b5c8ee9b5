"""Bills that come before their hours are over, through the real service: the gate and the day's figure trust none."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.messages.budget import BudgetGate, GateOrder, Gates
from shared.messages.codec import decode, encode
from shared.messages.invoices import Imported, Invoices, InvoicesQuery
from tests.integration.billing.billing_service import Billing, billing, configured, publish_transition
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import focus_csv, hours

FLEET = """
[billing]
daily_budget = "200.00"
[[tier]]
name = "A"
provider = "static"
price_per_hour = "36.00"
[[machine]]
id = "a-1"
tier = "A"
instance = "i-a"
endpoint = "http://127.0.0.1:1"
"""
UNPRICED = FLEET.replace('price_per_hour = "36.00"\n', "")
SIMPLE = b"date,resource,cost,currency\n2026-05-03,i-a,%s,USD\n"


@asynccontextmanager
async def at(hour: float, tmp_path: Path, bus: MemoryBus, url: str | None, text: str = FLEET) -> AsyncIterator[Billing]:
    """The service at that hour of the day; a machine has been awake since 06:00."""
    await publish_transition(bus, "a-1", 0, "asleep")
    await publish_transition(bus, "a-1", 6, "ready")
    config = configured(text, database_url=url)
    async with billing(tmp_path, config, bus, now=hours(hour, hour).start / 1000) as (service, _):
        await until(service.report, lambda report: report.always_on is not None and bool(report.spend or report.reason))
        yield service


async def gate(books: Billing) -> BudgetGate:
    """As it is judged now."""
    order = GateOrder(scope="fleet", order="auto", by="test", reason="look now")
    answer = await books.bus.request(subjects.BILLING_GATE, encode(order), timeout=PATIENCE_SECONDS)
    return decode(answer, Gates).gates["fleet"]


async def imported(books: Billing) -> tuple[Imported, ...]:
    answer = await books.bus.request(subjects.BILLING_INVOICES, encode(InvoicesQuery()), timeout=PATIENCE_SECONDS)
    return decode(answer, Invoices).imported


async def test_case_3_no_bill_of_today_opens_the_gate_for_a_machine_that_runs(tmp_path: Path) -> None:
    licence = {
        "BilledCost": "0.31",
        "ChargePeriodStart": "2026-05-01T00:00:00Z",
        "ChargePeriodEnd": "2026-06-01T00:00:00Z",
    }
    credit = {"BilledCost": "-500.00", "ChargeCategory": "Credit"}
    async with at(12, tmp_path, MemoryBus(), None) as books:
        closed = await until(lambda: gate(books), lambda gate: gate.spend == 216)
        assert (closed.open, closed.reason) == (False, "budget_closed")
        await books.deliver(SIMPLE % b"0.01", source="cent")
        assert await gate(books) == closed
        report = await books.report()
        assert report.spend == 216
        assert report.state == "estimated"
        await books.deliver(focus_csv(licence), source="licence")
        assert (await gate(books)).spend == Decimal("216.01")
        await books.deliver(focus_csv({**credit, "BillingAccountId": "acc-2"}), source="credit")
        assert (await gate(books)).spend == Decimal("216.01")
        assert (await books.report()).spend == Decimal("-283.99")


async def test_a_machine_that_a_waker_with_a_slower_clock_woke_counts_in_the_gate(
    tmp_path: Path, books_url: str
) -> None:
    bus = MemoryBus()
    await publish_transition(bus, "a-1", -2, "ready", "waking")
    await publish_transition(bus, "a-1", 0.1, "falling_asleep", "ready")
    await publish_transition(bus, "a-1", 0.2, "asleep", "falling_asleep")
    await publish_transition(bus, "a-1", -0.5, "waking", "asleep")
    await publish_transition(bus, "a-1", -0.4, "ready", "waking")
    async with billing(tmp_path, configured(FLEET, database_url=books_url), bus, now=hours(5, 5).start / 1000) as (
        books,
        _,
    ):
        assert (await until(lambda: gate(books), lambda gate: gate.spend > 36)).spend == 5 * 36


async def test_a_broken_machine_counts_in_the_gate_until_it_is_off(tmp_path: Path) -> None:
    bus = MemoryBus()
    await publish_transition(bus, "a-1", 7, "broken")
    await publish_transition(bus, "a-1", 11, "asleep")
    async with at(10, tmp_path, bus, None) as books:
        assert (await until(lambda: gate(books), lambda gate: gate.spend > 36)).spend == 4 * 36
    async with at(12, tmp_path, bus, None) as books:
        assert (await until(lambda: gate(books), lambda gate: gate.spend > 36)).spend == 5 * 36


async def test_files_that_are_read_again_are_no_newer_and_a_newer_file_is_trusted(
    tmp_path: Path, books_url: str
) -> None:
    bus = MemoryBus()
    hour = {"ChargePeriodStart": "2026-05-03T09:00:00Z", "ChargePeriodEnd": "2026-05-03T10:00:00Z"}
    async with at(9.5, tmp_path, bus, books_url) as books:
        await books.deliver(focus_csv({"BilledCost": "1.00", **hour}))
        await until(lambda: gate(books), lambda gate: gate.spend == Decimal(126))
    changed = FLEET.replace('instance = "i-a"', 'instance = "i-a"\nresources = ["vol-a"]')
    async with at(18, tmp_path, bus, books_url, changed) as books:
        await until(lambda: imported(books), lambda snapshots: [one.active for one in snapshots] == [True, False])
        assert (await gate(books)).spend == 12 * 36
        await books.deliver(focus_csv({"BilledCost": "30.00", **hour}))
        assert (await gate(books)).spend == 11 * 36 + 30


async def test_a_machine_that_nothing_prices_makes_the_spend_unknown_until_its_bill_comes(
    tmp_path: Path,
) -> None:
    async with at(12, tmp_path, MemoryBus(), None, UNPRICED) as books:
        assert (await gate(books)).reason == "billing_unobservable"
        await books.deliver(SIMPLE % b"0.01")
        early = await gate(books)
        assert (early.reason, early.observed) == ("billing_unobservable", False)
        whole = {"ChargePeriodStart": "2026-05-03T06:00:00Z", "ChargePeriodEnd": "2026-05-03T12:00:00Z"}
        await books.deliver(focus_csv({"BilledCost": "60.00", **whole}), source="hourly")
        assert (await gate(books)).open
