"""What everybody may see is on the bus: each day, the trailing days and the price list, and never more than that."""

from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.billing import wiring
from services.billing.app.public_books import REPEAT_SECONDS, PublicBooks
from services.billing.core.reports.period_report import build_period_report
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import REPORTS
from shared.messages.billing import Band, DayReport
from shared.messages.codec import decode, encode
from shared.messages.public import Headline, PublishedDay
from tests.integration.billing.billing_service import billing, configured
from tests.kit.waiting import until
from tests.unit.billing.cost_row_builders import focus_csv
from tests.unit.billing.export.full_reports import EVIL, WEIGHTS, day_report, evil_day, lacking, unknown

DAYS = [f"2026-05-{day:02}" for day in range(1, 9)]
BAND = Band(
    model="m",
    day=DAYS[0],
    low=None,
    high=None,
    trailing_7=None,
    trailing_28=None,
    reason="fewer than 10 tokens on billed days of the last 7",
    left_out=(f"{DAYS[0]}: machine i-secret has no bill",),
)
PLANTED = "planted-secret"


class Harness:
    """Public books on a bus in memory, and the clock that they go by."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.now = 1_777_852_800.0
        self.books = PublicBooks(self.bus, self._bands, WEIGHTS, 10, now=lambda: self.now)

    async def _bands(self) -> tuple[Band, ...]:
        return (BAND,)

    async def day(self, day: str) -> PublishedDay | None:
        entry = await self.bus.get(REPORTS, subjects.public_day_key(day))
        return None if entry is None else decode(entry.value, PublishedDay)

    async def headline(self) -> Headline | None:
        entry = await self.bus.get(REPORTS, subjects.HEADLINE_KEY)
        return None if entry is None else decode(entry.value, Headline)

    async def texts(self) -> str:
        return "".join(entry.value.decode() for entry in (await self.bus.entries(REPORTS)).values())


async def test_the_headline_is_the_report_of_the_last_seven_days() -> None:
    harness = Harness()
    days = [day_report(day, f"{number + 100}.123456789012") for number, day in enumerate(DAYS)]
    await harness.books.publish(reversed(days))
    headline = await harness.headline()
    assert headline is not None
    report = build_period_report(days[1:], WEIGHTS)
    assert (headline.period.first, headline.period.to) == (DAYS[1], DAYS[7])
    for field in ("state", "spend", "tokens", "usd_per_mtok", "usd_per_mtok_output", "causes", "tax"):
        assert getattr(headline.period, field) == getattr(report, field), field
    assert [(tier.tier, tier.spend) for tier in headline.period.tiers] == [(t.tier, t.spend) for t in report.tiers]
    assert [(day.day, day.revision, day.state) for day in headline.period.days] == [
        (day.day, 3, "provisional") for day in days[1:]
    ]
    (band,) = headline.bands
    assert (band.reason, band.left_out) == ("few_tokens", (DAYS[0],))
    assert (await harness.day(DAYS[0])) is not None, "days before the headline's are there too"


async def test_an_unchanged_day_is_put_once_and_the_headline_repeated_while_billing_works() -> None:
    harness = Harness()
    days = [day_report(day) for day in DAYS[:7]]
    await harness.books.publish(days)
    first = await harness.headline()
    assert first is not None
    harness.now += REPEAT_SECONDS - 1
    await harness.books.publish(days)
    assert await harness.headline() == first
    harness.now += 1
    await harness.books.publish(days)
    assert await harness.headline() == replace(first, at=harness.now)
    await PublicBooks(harness.bus, harness._bands, WEIGHTS, 10, now=lambda: harness.now).publish(days)  # a new process
    day = await harness.day(DAYS[0])
    assert day is not None
    assert day.at == first.at


async def test_a_day_that_failed_keeps_its_figures_and_one_that_is_no_longer_known_loses_them() -> None:
    harness = Harness()
    days = [day_report(day) for day in DAYS[:7]]
    await harness.books.publish(days)
    await harness.books.publish([replace(days[0], failed=True, usd_per_mtok=None), *days[1:]])
    kept = await harness.day(DAYS[0])
    assert kept is not None
    assert kept.figures.spend == days[0].spend
    await harness.books.publish([replace(unknown(), day=DAYS[0]), *days[1:]])
    lost = await harness.day(DAYS[0])
    assert lost is not None
    assert (lost.figures.spend, lost.figures.reason) == (None, "no_bill")


async def test_a_day_of_which_nothing_is_known_is_not_published() -> None:
    harness = Harness()
    await harness.books.publish([replace(unknown(), day=DAYS[0])])
    assert await harness.day(DAYS[0]) is None


async def test_a_missing_bill_is_shown_without_its_machine() -> None:
    harness = Harness()
    await harness.books.publish([lacking(day) for day in DAYS[:7]])
    day, headline = await harness.day(DAYS[0]), await harness.headline()
    assert day is not None
    assert headline is not None
    assert (day.figures.spend, day.figures.reason, headline.period.reason) == (None, "bill_missing", "bill_missing")
    assert day.figures.spend_known is not None


async def test_nothing_that_a_report_names_beside_tiers_and_models_is_published() -> None:
    """Keys, files, machines, reasons and changes: each carries a word that must not come out."""
    harness = Harness()
    report = evil_day()
    assert any(key.key_id for key in report.keys)
    assert report.hours or report.unbilled or report.sources
    planted: DayReport = replace(
        report,
        day=DAYS[0],
        reason=PLANTED,
        change=PLANTED,
        usage_reasons=(PLANTED,),
        sources=(PLANTED,),
        left_out=PLANTED,
        shared_by=PLANTED,
        keys=tuple(replace(key, key_id=PLANTED, name=PLANTED) for key in report.keys),
        tiers=tuple(replace(tier, reason=PLANTED, tier="t") for tier in report.tiers),
        models=tuple(replace(model, model="m") for model in report.models),
        always_on=replace(report.always_on, reason=PLANTED) if report.always_on else None,
    )
    await harness.books.publish([replace(planted, day=day) for day in DAYS[:7]])
    text = await harness.texts()
    assert PLANTED in encode(planted).decode()
    assert PLANTED not in text
    assert not [evil for evil in EVIL if evil in text]
    assert "i-secret" not in text


async def test_the_leading_service_publishes_the_headline_of_a_bill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "DAILY_SECONDS", 0.05)
    async with billing(tmp_path, configured(), now=1_777_939_200.0) as (books, _):  # two days after the bill's
        await books.deliver(focus_csv({"BilledCost": "30.00", "ResourceId": "i-b", "ServiceName": "EC2"}))

        async def spends() -> list[Decimal | None]:
            entry = await books.bus.get(REPORTS, subjects.HEADLINE_KEY)
            days = () if entry is None else decode(entry.value, Headline).period.days
            return [day.spend or day.spend_known for day in days]

        await until(spends, lambda amounts: Decimal(30) in amounts)
