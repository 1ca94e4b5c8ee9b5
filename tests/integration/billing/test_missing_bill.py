"""A provider's bill that lacks a day of its machines, imported into the real service."""

from datetime import date
from decimal import Decimal
from pathlib import Path

from msgspec.structs import replace

from shared.bus import subjects
from shared.messages.billing import DayReport, PeriodReport, ReportsQuery
from shared.messages.codec import decode, encode
from shared.messages.invoices import PayableNote
from shared.messages.waker import MachineState, Transition
from tests.integration.billing.billing_service import Billing, billing, configured
from tests.kit.waiting import PATIENCE_SECONDS, until

BILL = (Path(__file__).parents[2] / "cases" / "books" / "fault2_missing_bill_hyperstack.csv").read_bytes()
MISSING = (
    b"2026-11-20,471120,61.5,USD,HS-202611,Compute,H100\n"
    b"2026-11-20,471121,52.25,USD,HS-202611,Compute,H100\n"
    b"2026-11-20,471122,70.125,USD,HS-202611,Compute,H100\n"
)
DECEMBER = 1_796_385_600.0
"""The fourth of it."""
NOW = 1_795_953_600.0
"""Noon of 29 November."""
CONFIG = """
[[tier]]
name = "h100x2"
provider = "static"
[[machine]]
id = "h100-1"
tier = "h100x2"
instance = "471120"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "h100-2"
tier = "h100x2"
instance = "471121"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "h100-3"
tier = "h100x2"
instance = "471122"
resources = ["vol-hs-9"]
endpoint = "http://127.0.0.1:1"
"""
MACHINES = ("h100-1", "h100-2", "h100-3")
LACKS = "no bill yet: h100-1, h100-2, h100-3"


async def publish_transition(books: Billing, day: str, state: MachineState) -> None:
    """Of all machines, at the day's midnight."""
    at = float((date.fromisoformat(day) - date(1970, 1, 1)).days * 86_400)
    for machine in MACHINES:
        entry = Transition(
            at=at, machine=machine, tier="h100x2", from_state=None, to_state=state, reason="test", generation=1
        )
        await books.bus.publish(subjects.journal(machine), encode(entry))


async def period(books: Billing, days: int = 28) -> PeriodReport:
    query = encode(ReportsQuery(to="2026-11-28", days=days))
    return decode(await books.bus.request(subjects.BILLING_REPORTS, query, timeout=PATIENCE_SECONDS), PeriodReport)


def figures(report: DayReport) -> DayReport:
    """Without what tells how it came about."""
    return replace(report, revision=0, change=None, sources=())


async def test_a_day_without_its_bill_is_null_by_name_until_it_comes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    async with billing(tmp_path / "first", configured(CONFIG), now=NOW) as (books, _):
        books.meter.served = {"h100x2": 50_000_000}
        await publish_transition(books, "2026-11-01", "ready")
        await publish_transition(books, "2026-11-29", "asleep")
        await books.deliver(BILL, source="hyperstack")

        async def report_of_day() -> DayReport:
            return await books.report("2026-11-20")

        lacking = await until(report_of_day, lambda report: report.reason == LACKS)
        assert (lacking.state, lacking.spend, lacking.usd_per_mtok) == ("estimated", None, None)
        assert (lacking.spend_known, [tier.spend for tier in lacking.tiers]) == (Decimal("5.29"), [None])
        assert (await books.report("2026-11-19")).state == "provisional"
        whole = await period(books)
        assert (whole.spend, whole.state, whole.complete_through) == (None, "estimated", "2026-11-19")
        assert whole.reason == f"{LACKS} on 2026-11-20; the days up to 2026-11-19 are whole"
        assert (await period(books, 8)).spend is not None
        (bills,) = whole.bills
        assert (bills.source, bills.machines, bills.missing) == ("hyperstack", MACHINES, {"2026-11-20": MACHINES})
        assert (bills.charges_through, bills.delivered_through) == ("2026-11-28", "2026-11-19")

        await books.deliver(BILL + MISSING, source="hyperstack")
        came = await report_of_day()
        assert (came.state, came.spend, came.reason) == ("provisional", Decimal("189.165"), None)
        assert came.revision == lacking.revision + 1
        whole = await period(books)
        assert (whole.complete_through, whole.bills[0].delivered_through) == ("2026-11-28", "2026-11-28")

    async with billing(tmp_path / "second", configured(CONFIG), now=NOW) as (books, _):
        books.meter.served = {"h100x2": 50_000_000}
        await books.deliver(BILL + MISSING, source="hyperstack")
        await publish_transition(books, "2026-11-29", "asleep")
        await publish_transition(books, "2026-11-01", "ready")
        at_once = await until(report_of_day, lambda report: report.causes.get("warm_idle") == came.causes["warm_idle"])
        assert figures(at_once) == figures(came)


async def test_a_month_whose_invoice_ties_lacks_nothing_of_the_machines_on_it(tmp_path: Path) -> None:
    async with billing(tmp_path, configured(CONFIG), now=DECEMBER) as (books, _):
        await publish_transition(books, "2026-11-01", "ready")
        await publish_transition(books, "2026-11-29", "asleep")
        await books.deliver(BILL, source="hyperstack")

        async def report_of_day() -> DayReport:
            return await books.report("2026-11-20")

        await until(report_of_day, lambda report: report.reason == LACKS)
        paid = sum((Decimal(line.split(b",")[2].decode()) for line in BILL.splitlines()[1:]), Decimal(0))
        note = PayableNote(source="hyperstack", invoice_id="HS-202611", amount=paid)
        await books.bus.request(subjects.BILLING_PAYABLE, encode(note), timeout=PATIENCE_SECONDS)
        report = await report_of_day()
        assert (report.state, report.spend, report.unbilled) == ("final", Decimal("5.29"), ())
