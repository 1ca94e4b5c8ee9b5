"""Economics and pricing: what billing published, with its age, to the last digit, and nothing else."""

import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from services.billing.adapters.export.json import json_fields
from services.billing.core.reports.period_report import build_period_report
from services.billing.core.reports.public_figures import public_band, public_day, public_period
from services.site.app import report_view
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import REPORTS
from shared.messages.bench import BenchRun
from shared.messages.billing import CAUSES, Band, DayReport, Published, TierFigure
from shared.messages.codec import decode, encode
from shared.messages.meter_audit import Audit
from shared.messages.public import Headline, PublishedDay
from shared.messages.trail import Trail, TrailQuery
from tests.kit.html_pages import ParsedPage
from tests.kit.site import CONFIG, running_site
from tests.unit.billing.export.full_reports import WEIGHTS, day_report, lacking

DAYS = [day_report(f"2026-05-{day:02}", f"{100 + day}.123456789012") for day in range(1, 8)]
AT = 1_777_852_800.0
BAND = Band(
    model="org/name",
    day="2026-05-08",
    low=Decimal("1.50"),
    high=Decimal(2),
    trailing_7=Decimal("1.93"),
    trailing_28=Decimal("1.8"),
)
EXAMPLES = Path(__file__).parents[2] / "contract" / "messages"
PUBLIC_PATHS = (
    "/",
    "/index.json",
    *(
        f"{path}{form}"
        for path in ("/economics", f"/economics/{DAYS[0].day}", "/pricing")
        for form in ("", ".json", ".csv")
    ),
)
MODEL = '[[tier]]\nname = "h100x2"\nprovider = "static"\n[[model]]\nname = "org/name"\nlineup = ["h100x2"]\n'


async def publish(bus: MemoryBus, days: list[DayReport]) -> None:
    period = public_period(build_period_report(days, WEIGHTS))
    headline = Headline(period=period, bands=(public_band(BAND),), band_tokens=1_000_000, at=AT)
    await bus.put(REPORTS, subjects.HEADLINE_KEY, encode(headline))
    for day in days:
        published = PublishedDay(figures=public_day(day), at=AT)
        await bus.put(REPORTS, subjects.public_day_key(day.day), encode(published))


class Site:
    """A running site and the bus that it reads."""

    def __init__(self, bus: MemoryBus, session: aiohttp.ClientSession) -> None:
        self.bus = bus
        self._session = session

    async def text(self, path: str) -> str:
        async with self._session.get(path) as response:
            assert response.status == 200, path
            return await response.text()

    async def json(self, path: str) -> dict[str, Any]:
        async with self._session.get(path) as response:
            fields: dict[str, Any] = await response.json()
            return fields


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    bus = MemoryBus()
    async with running_site(tmp_path, CONFIG + MODEL, bus) as url, aiohttp.ClientSession(url) as session:
        yield Site(bus, session)


async def test_economics_equals_the_report_of_the_same_days(site: Site) -> None:
    await publish(site.bus, DAYS)
    report = json_fields(build_period_report(DAYS, WEIGHTS))
    page = await site.json("/economics.json")
    period = page["period"]
    assert page["is_current"] is True
    for field in ("from", "to", "state", "spend", "tokens", "usd_per_mtok", "causes", "directions", "tax"):
        assert period[field] == report[field], field
    for day, expected in zip(period["days"], report["days"], strict=True):
        for field in ("day", "state", "revision", "spend", "tokens", "usd_per_mtok", "causes"):
            assert day[field] == expected[field], field
    rows = list(csv.DictReader(io.StringIO(await site.text("/economics.csv"))))
    assert [row["spend_usd"] for row in rows] == [day["spend"] for day in report["days"]] + [report["spend"]]
    for cause in CAUSES:
        assert rows[-1][f"{cause}_usd"] == report["causes"][cause]
    html = await site.text("/economics")
    assert "$1.2999" not in html
    assert f"${Decimal(report['usd_per_mtok']):.4f}" in html
    assert "provisional" in html
    assert "2026-05-01 to 2026-05-07" in html


async def test_without_a_published_figure_the_pages_show_none(site: Site) -> None:
    for path in ("/", "/economics", "/pricing"):
        html = await site.text(path)
        assert "not known" in html.lower(), path
        assert "$0" not in html, path


async def test_figures_that_nobody_confirms_are_no_longer_shown_as_current(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_view, "STALE_S", 0.0)
    await publish(site.bus, DAYS)
    for path in ("/", "/economics"):
        html = await site.text(path)
        assert "Last known" in html
        assert "billing has not confirmed it since" in html
    assert (await site.json("/economics.json"))["is_current"] is False


async def test_a_day_without_a_bill_is_a_mark_and_not_0(site: Site) -> None:
    await publish(site.bus, [*DAYS[:6], replace(lacking("2026-05-07"), day="2026-05-07")])
    html = await site.text("/economics")
    assert "\N{MULTIPLICATION SIGN}" in html
    assert "a part of the bill has not come yet" in html


async def test_the_price_list_has_bands_dates_and_what_they_follow_from(site: Site) -> None:
    await publish(site.bus, DAYS)
    html = await site.text("/pricing")
    for text in ("$1.50 to $2.00", "2026-05-08", "$1.9300", "$1.8000", "1,000,000", "never comes from an estimate"):
        assert text in html, text
    assert "$1.50 to $2.00 per million tokens" in await site.text("/")
    row = next(csv.DictReader(io.StringIO(await site.text("/pricing.csv"))))
    assert (row["above_usd_per_mtok"], row["to_usd_per_mtok"]) == ("1.50", "2")


def example(name: str) -> bytes:
    return (EXAMPLES / f"{name}.json").read_bytes()


async def test_a_day_shows_its_figures_without_billing_and_its_trail_with_it(site: Site) -> None:
    await publish(site.bus, DAYS)
    day = DAYS[0].day
    audit = replace(decode(example("audit.v1"), Audit), day=day)
    await site.bus.put(REPORTS, subjects.audit_key(day), encode(audit))
    html = await site.text(f"/economics/{day}")
    assert f"${DAYS[0].usd_per_mtok:.4f}" in html
    assert "billing does not answer" in html
    assert "The ledger has" in html
    assert f'href="/economics/{DAYS[1].day}" rel="next"' in html
    assert 'rel="prev"' not in html, "the day before is not published"
    assert "billing does not answer" in await site.text(f"/economics/{day}/charges/1")

    async def answer(data: bytes) -> bytes:
        query = decode(data, TrailQuery)
        trail = decode(example("trail.v1.charges"), Trail)
        charges = trail.charges * min(query.most_charges, 201 - query.charges_from)
        return encode(replace(trail, day=query.day, revision=DAYS[1].revision, charges=charges, all_charges=201))

    await site.bus.respond("billing", subjects.BILLING_TRAIL, answer)
    html = await site.text(f"/economics/{DAYS[1].day}")
    spend, usd_per_mtok = f"{DAYS[1].spend:f}", f"{DAYS[1].usd_per_mtok:f}"
    for text in ("ab" * 32, "charges of the bill", "h100x2", "$9.90", "20 of 201", spend, usd_per_mtok):
        assert text in html, text
    for text in ("2 more files.", "1 more invoice.", "Files of azure could not be imported", "warm idle: 3.3", ">0.1<"):
        assert text in html, text
    for page, charges in (("1", 200), ("2", 1)):
        fields = await site.json(f"/economics/{DAYS[1].day}/charges/{page}.json")
        assert (len(fields["charges"]), fields["all_charges"], fields["pages"]) == (charges, 201, 2)
    rows = list(csv.DictReader(io.StringIO(await site.text(f"/economics/{DAYS[1].day}/charges/2.csv"))))
    assert [(row["number"], row["amount_usd"], row["serving_usd"]) for row in rows] == [("201", "9.9", "6.6")]
    last = await site.text(f"/economics/{DAYS[1].day}/charges/2")
    assert "Charges 201 to 201 of 201" in last
    assert [ParsedPage(page).faults for page in (html, last)] == [[], []]
    rows = list(csv.DictReader(io.StringIO(await site.text(f"/economics/{DAYS[1].day}.csv"))))
    assert [(row["tier"], row["charges"], row["amount_usd"]) for row in rows] == [("h100x2", "12", "9.9")]


async def test_a_day_that_was_not_published_is_no_page(site: Site) -> None:
    await publish(site.bus, DAYS)
    for path in (
        "/economics/1990-01-01",
        "/economics/0",
        "/economics/published",
        f"/economics/{DAYS[0].day}/charges/0",
    ):
        with pytest.raises(AssertionError):
            await site.text(path)


async def test_no_public_form_has_what_the_bucket_names(site: Site) -> None:
    """Files, machines, gateways, runs and texts of the messages beside the public ones stay where they are."""
    await publish(site.bus, DAYS)
    day, secret = DAYS[0].day, "planted-secret"
    published = replace(decode(example("published.v1"), Published), day=day, change=secret, files=(secret,))
    audit = decode(example("audit.v1"), Audit)
    machines = tuple(replace(one, machine=secret, words=secret) for one in audit.machines)
    sources = tuple(replace(one, source=secret) for one in audit.sources)
    run = replace(decode(example("bench_run.v1"), BenchRun), id=secret)
    await site.bus.put(REPORTS, subjects.published_key(day), encode(published))
    await site.bus.put(
        REPORTS, subjects.audit_key(day), encode(replace(audit, day=day, machines=machines, sources=sources))
    )
    await site.bus.put(REPORTS, subjects.bench_key(secret), encode(run))
    for path in PUBLIC_PATHS:
        text = await site.text(path)
        assert secret not in text, path
        assert ".xlsx" not in text, path


def test_tier_without_attributed_cost_was_not_free() -> None:
    """Charges of a tier that is configured no more are unattributed, so what its tokens cost is not known."""
    gone = TierFigure(tier="gone", spend=Decimal(0), tokens=5, usd_per_mtok=Decimal(0))
    shown = public_day(replace(DAYS[0], tiers=(*DAYS[0].tiers, gone)))
    assert shown.tiers[-1].usd_per_mtok is None
    assert [t.usd_per_mtok for t in shown.tiers[:-1]] == [t.usd_per_mtok for t in DAYS[0].tiers]
