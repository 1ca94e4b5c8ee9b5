"""A day's trail, asked of the service: it sums to the report's figures and names no file, machine or resource."""

from decimal import Decimal
from pathlib import Path

from shared.bus import subjects
from shared.messages.codec import decode, encode
from shared.messages.meter import ErrorReply
from shared.messages.trail import Trail, TrailQuery
from tests.integration.billing.billing_service import Billing, billing, configured
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.billing.cost_row_builders import DAY, focus_csv

DISK = {"ResourceId": "vol-secret", "ServiceName": "EBS-secret", "ServiceCategory": "Storage"}
NAT = {"ResourceId": "nat-secret", "ServiceName": "VPC-secret", "ServiceCategory": "Networking"}
SECRETS = ("secret", "i-b", "b-1", "bill.csv")


async def ask(books: Billing, day: str = DAY, **more: int) -> bytes:
    return await books.bus.request(
        subjects.BILLING_TRAIL, encode(TrailQuery(day=day, **more)), timeout=PATIENCE_SECONDS
    )


def bill(*, machine: str) -> bytes:
    rows = [{"BilledCost": "3.00", **DISK}, {"BilledCost": "6.00", **NAT}, {"BilledCost": machine, "ResourceId": "i-b"}]
    rows.append({"BilledCost": "1.50", **NAT, "ChargeCategory": "Tax", "InvoiceIssuerName": "Cloud Inc."})
    return focus_csv(*rows)


async def test_a_trail_sums_to_the_figures_and_names_nothing(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        await books.deliver(bill(machine="30.00"), file="bill.csv")
        await books.report()
        await books.deliver(bill(machine="31.00"), file="bill.csv")
        report = await books.report()
        answer = await ask(books)
        trail = decode(answer, Trail)
        for tier in report.tiers:
            amounts = [cost.amount for cost in trail.costs if cost.tier == tier.tier]
            assert sum(amounts, Decimal(0)) == tier.spend
        for owner in ("shared", "unattributed"):
            amounts = [cost.amount for cost in trail.costs if cost.owner == owner]
            assert sum(amounts, Decimal(0)) == report.causes[owner]
        assert [(one.revision, one.causes) for one in trail.revisions] == [(2, ("charges",)), (1, ("first",))]
        assert trail.revisions[0].spend == report.spend
        single = decode(await ask(books, most_charges=2), Trail)
        rest = decode(await ask(books, charges_from=2, most_charges=500), Trail)
        answer += encode(single) + encode(rest)
        charges = [*single.charges, *rest.charges]
        assert (len(single.charges), len(charges), rest.all_charges, trail.charges) == (2, 4, 4, ())
        by_cause = dict.fromkeys(report.causes, Decimal(0))
        for part in [*(part for charge in charges for part in charge.parts), *trail.estimates]:
            by_cause[part.cause] += part.amount
        assert by_cause == report.causes
        assert sum(charge.amount for charge in charges) == (report.spend or 0) + report.tax
        assert [(c.service, c.category) for c in charges][-1] == ("Networking", "Tax")
        assert {charge.delivery for charge in charges} == {trail.invoices[0].sha256}
        assert [(bill.source, bill.state, bill.billed) for bill in trail.bills] == [("cloud", "open", Decimal("41.5"))]
        (invoice,) = trail.invoices
        assert (invoice.source, len(invoice.sha256), invoice.rows) == ("cloud", 64, 4)
        assert not [secret for secret in SECRETS if secret in answer.decode()]


async def test_asking_about_a_day_without_a_report_makes_none(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        for _attempt in range(2):
            assert "has no report" in decode(await ask(books, "1990-01-01"), ErrorReply).reason
        assert "day:" in decode(await ask(books, "never"), ErrorReply).reason
