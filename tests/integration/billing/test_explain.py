"""What a figure is made of, asked of the service: it sums to the figure of the same answer, of a day and of several."""

from decimal import Decimal
from pathlib import Path

from shared.bus import subjects
from shared.messages.billing import DayReport, PeriodReport, ReportQuery, ReportsQuery
from shared.messages.codec import decode, encode
from shared.messages.explanation import CostLine, Explanation
from tests.integration.billing.billing_service import Billing, billing, configured, publish_transition
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import DAY, focus_csv

NEXT = "2026-05-04"
FOURTH = {"ChargePeriodStart": f"{NEXT}T00:00:00Z", "ChargePeriodEnd": "2026-05-05T00:00:00Z"}
DISK = {"ResourceId": "disk-x", "ServiceName": "EBS", "ServiceCategory": "Storage", "Tags": '{"tier": "typo"}'}
NAT = {"ResourceId": "nat-1", "ServiceName": "VPC", "ServiceCategory": "Networking"}


async def ask_day(books: Billing, day: str = DAY) -> DayReport:
    query = ReportQuery(day=day, explain=True)
    return decode(await books.bus.request(subjects.BILLING_REPORT, encode(query), timeout=PATIENCE_SECONDS), DayReport)


async def ask_period(books: Billing) -> PeriodReport:
    query = ReportsQuery(to=NEXT, days=2, explain=True)
    return decode(
        await books.bus.request(subjects.BILLING_REPORTS, encode(query), timeout=PATIENCE_SECONDS), PeriodReport
    )


def sums_hold(report: DayReport | PeriodReport) -> dict[str, Explanation]:
    explanations = {one.figure: one for one in report.explanations}
    figures = {tier.tier: tier.spend for tier in report.tiers}
    figures |= {cause: report.causes[cause] for cause in ("unattributed", "shared")}
    assert {name: one.amount for name, one in explanations.items()} == figures
    assert all(sum((line.amount for line in one.lines), one.rest) == one.amount for one in explanations.values())
    return explanations


async def test_a_days_and_a_periods_figures_are_explained(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        await publish_transition(books.bus, "a-1", -1, "ready")
        await books.deliver(
            focus_csv(
                {"BilledCost": "3.00", **DISK},
                {"BilledCost": "4.00", **DISK, **FOURTH},
                {"BilledCost": "6.00", **NAT},
                {"BilledCost": "30.00", "ResourceId": "i-b", "ServiceName": "EC2"},
            )
        )
        day = await until(lambda: ask_day(books), lambda report: report.causes.get("warm_idle") == Decimal("57.6"))
        assert day.state == "estimated"
        explanations = sums_hold(day)
        (disk,) = explanations["unattributed"].lines
        expected = CostLine(
            what="charges",
            amount=Decimal(3),
            resource="disk-x",
            service="EBS",
            category="Usage",
            tag="typo",
            source="cloud",
            file="bill.csv",
            charges=1,
        )
        assert disk == expected
        tier_a, tier_b = (explanations[tier].lines for tier in ("A", "B"))
        assert [(line.what, line.resource) for line in tier_a] == [
            ("estimate", "a-1"),
            ("shared", None),
        ]
        assert [(line.what, line.resource) for line in tier_b] == [
            ("charges", "i-b"),
            ("shared", None),
        ]
        period = await ask_period(books)
        (disk,) = sums_hold(period)["unattributed"].lines
        assert (disk.amount, disk.charges) == (Decimal(7), 2)
        assert all(not of_day.explanations for of_day in period.days)
        assert not (await books.report()).explanations, "only for those who ask"
        nothing = await ask_day(books, "2026-04-01")
        assert (nothing.spend, nothing.explanations) == (None, ()), "what is not known is not made of 0"
