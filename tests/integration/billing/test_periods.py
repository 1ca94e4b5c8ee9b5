"""`billing.reports` of the running service: the same days as `billing.report` tells, added up."""

from decimal import Decimal
from pathlib import Path

from shared.bus import subjects
from shared.messages.billing import PeriodReport, ReportsQuery
from shared.messages.codec import decode, encode
from shared.messages.meter import ErrorReply
from tests.integration.billing.billing_service import Billing, billing, configured
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.billing.cost_row_builders import DAY, focus_csv

FOURTH = {"ChargePeriodStart": "2026-05-04T00:00:00Z", "ChargePeriodEnd": "2026-05-05T00:00:00Z"}
NEXT = "2026-05-04"


async def ask(books: Billing, to: str, days: int) -> bytes:
    return await books.bus.request(
        subjects.BILLING_REPORTS, encode(ReportsQuery(to=to, days=days)), timeout=PATIENCE_SECONDS
    )


async def period(books: Billing, to: str = NEXT, days: int = 2) -> PeriodReport:
    return decode(await ask(books, to, days), PeriodReport)


async def test_a_period_is_its_days_added_up(tmp_path: Path, books_url: str) -> None:
    async with billing(tmp_path, configured(database_url=books_url)) as (books, _):
        await books.deliver(focus_csv({"BilledCost": "100.00"}, {"BilledCost": "20.00", **FOURTH}))
        report = await period(books)
        assert report.days == (await books.report(DAY), await books.report(NEXT))
        assert (report.first, report.to, report.spend, report.tokens) == (DAY, NEXT, Decimal(120), 100_000_000)
        assert (report.usd_per_mtok, report.state) == (Decimal("1.2"), "provisional")
        assert [(tier.tier, tier.spend) for tier in report.tiers] == [("A", Decimal(120)), ("B", Decimal(0))]
        again = await period(books)
        assert again == report
        await books.deliver(focus_csv({"BilledCost": "90.00"}, {"BilledCost": "20.00", **FOURTH}))
        after = await period(books)
        assert (after.spend, after.days[0].revision) == (Decimal(110), report.days[0].revision + 1)
        assert after.days[1].spend == report.days[1].spend


async def test_a_day_whose_cost_is_lacking_is_named(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        await books.deliver(focus_csv({"BilledCost": "100.00"}))
        report = await period(books)
        assert (report.spend, report.usd_per_mtok, report.tokens) == (None, None, 100_000_000)
        assert report.reason == f"cost not delivered: {NEXT}; the days up to {DAY} are whole"
        alone = await period(books, DAY, 1)
        assert (alone.spend, alone.usd_per_mtok) == (Decimal(100), Decimal(2))


async def test_a_bad_question_or_a_silent_meter_is_refused(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        for to, days, field in ((NEXT, 93, "days: "), ("2026-02-30", 1, "to: ")):
            assert decode(await ask(books, to, days), ErrorReply).reason.startswith(field)
        books.meter.refuses = True
        assert "meter" in decode(await ask(books, NEXT, 2), ErrorReply).reason
