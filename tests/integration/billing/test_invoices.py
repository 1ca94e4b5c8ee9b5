"""What was imported and how it stands, other currencies, and what a changed configuration makes of it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.messages.codec import decode, encode
from shared.messages.invoices import DeliveredFile, Invoices, InvoicesQuery, PayableNote
from shared.messages.meter import ErrorReply
from tests.integration.billing.billing_service import CONFIG, Billing, billing, configured, publish_transition
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import focus_csv

MAY = {"InvoiceId": "MAY-1", "BilledCost": "100.00"}
RATES = """
[[billing.rate]]
currency = "EUR"
per_usd = "0.92"
from = "2026-01-01"
source = "the ECB"
[[billing.rate]]
currency = "EUR"
per_usd = "0.80"
from = "2026-05-04"
source = "the ECB"
"""


@pytest.fixture
async def books(tmp_path: Path, books_url: str) -> AsyncIterator[Billing]:
    async with billing(tmp_path, configured(database_url=books_url)) as (service, _):
        yield service


async def invoices(books: Billing) -> Invoices:
    answer = await books.bus.request(subjects.BILLING_INVOICES, encode(InvoicesQuery()), timeout=PATIENCE_SECONDS)
    return msgspec.json.decode(answer, type=Invoices)


async def refused(books: Billing, **note: object) -> str:
    values = {"type": "payable_note.v1", "source": "cloud", "invoice_id": "MAY-1", "amount": "100", **note}
    answer = await books.bus.request(
        subjects.BILLING_PAYABLE, json.dumps(values, default=str).encode(), timeout=PATIENCE_SECONDS
    )
    return decode(answer, ErrorReply).reason


async def test_imported_snapshots_are_listed_with_their_files(books: Billing) -> None:
    first = await books.deliver(focus_csv(MAY))
    second = await books.deliver(focus_csv(MAY, {"BilledCost": "1"}), file="again.csv")
    newest, replaced = (await invoices(books)).imported
    assert (newest.active, newest.rows, newest.billed) == (True, 2, Decimal(101))
    assert (replaced.active, replaced.rows, replaced.billed) == (False, 1, Decimal(100))
    assert [(f.name, f.sha256) for f in (*newest.files, *replaced.files)] == [
        ("again.csv", second.sha256),
        ("bill.csv", first.sha256),
    ]


async def test_an_invoice_that_is_replaced_away_still_stands_against_its_amount(books: Billing) -> None:
    await books.deliver(focus_csv(MAY))
    note = PayableNote(source="cloud", invoice_id="MAY-1", amount=Decimal(100))
    await books.bus.request(subjects.BILLING_PAYABLE, encode(note), timeout=PATIENCE_SECONDS)
    assert [s.state for s in (await invoices(books)).standings] == ["ties"]
    await books.deliver(focus_csv({"InvoiceId": "MAY-2"}))
    assert {s.invoice_id: (s.state, s.billed) for s in (await invoices(books)).standings} == {
        "MAY-1": ("differs", Decimal(0)),
        "MAY-2": ("open", Decimal(1)),
    }


IMPOSSIBLE_NOTES: list[tuple[dict[str, object], str]] = [
    ({"invoice_id": "MAY-7"}, "invoice_id: no charge from cloud names invoice 'MAY-7'"),
    ({"source": "other"}, "invoice_id: no charge from other"),
    ({"issuer": "Nobody"}, "of Nobody"),
    ({"voids": "MAY-7"}, "voids: Cloud Inc. has no invoice 'MAY-7'"),
    ({"voids": "MAY-1"}, "voids:"),
    ({"invoice_id": "MAY-2"}, "issuer: Cloud Inc. and Shop both have an invoice 'MAY-2': name the issuer"),
    ({"amount": Decimal("1e-13")}, "amount:"),
    ({"amount": Decimal("1e15")}, "expected an amount below"),
    ({"amount": Decimal("NaN")}, "expected an amount below"),
    ({"invoice_id": " "}, "invoice_id:"),
    ({"account": "acc-1"}, "account: an invoice is known by its number alone"),
    ({"period": "2026-05"}, "period: is for charges that name no invoice"),
    ({"period": "2026-13", "invoice_id": ""}, "period: expected a month"),
    ({"period": "2026-05", "invoice_id": ""}, "period: cloud has no charge without an invoice number in 2026-05"),
]


async def test_a_payable_amount_that_cannot_be_is_refused(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        shop = {"InvoiceIssuerName": "Shop", "InvoiceId": "MAY-2"}
        await books.deliver(focus_csv(MAY, {"InvoiceId": "MAY-2"}, shop))
        for note, reason in IMPOSSIBLE_NOTES:
            assert reason in await refused(books, **note), note
        assert all(s.payable is None for s in (await invoices(books)).standings)


async def test_a_month_without_invoice_numbers_can_become_final(books: Billing) -> None:
    """Google's way: no number, and months that begin at midnight in California."""
    google = {"InvoiceIssuerName": "Google Cloud", "BilledCost": "57.60", "BillingAccountId": "g-1"}
    google |= {"BillingPeriodStart": "2026-05-01T07:00:00Z", "BillingPeriodEnd": "2026-06-01T07:00:00Z"}
    await books.deliver(focus_csv(google, {**google, "BilledCost": "1.001", "ResourceId": "i-b"}))
    assert (await books.report()).state == "provisional"
    note = PayableNote(source="cloud", invoice_id="", amount=Decimal("58.60"), period="2026-05")
    answer = await books.bus.request(subjects.BILLING_PAYABLE, encode(note), timeout=PATIENCE_SECONDS)
    (standing,) = decode(answer, Invoices).standings
    assert (standing.invoice_id, standing.account, standing.state) == (None, "g-1", "ties")
    assert standing.rounding == Decimal("-0.001")
    assert (await books.report()).state == "final"


async def test_import_warnings_are_returned_and_kept_with_the_snapshot(books: Billing) -> None:
    days = [
        {"ChargePeriodStart": f"2026-05-0{n}T00:00:00Z", "ChargePeriodEnd": f"2026-05-0{n + 1}T00:00:00Z"}
        for n in range(1, 6)
    ]
    usual = await books.deliver(focus_csv(*days))
    assert [s.warnings for s in usual.snapshots] == [()]
    future = {"ChargePeriodStart": "2027-05-03T00:00:00Z", "ChargePeriodEnd": "2027-05-04T00:00:00Z"}
    odd = focus_csv({"BilledCost": "1000", "ResourceId": "i-x"}, future)
    (snapshot,) = (await books.deliver(odd, file="odd.csv")).snapshots
    assert [text.partition(" 2")[0] for text in snapshot.warnings] == [
        "a charge of 1,000 USD for i-x on",
        "1 charges begin in the future, the first on",
        "2 rows, where the snapshot before had 5: is the export whole?",
    ]
    assert [one.warnings for one in (await invoices(books)).imported] == [snapshot.warnings, ()]
    assert (await books.deliver(odd, file="odd.csv")).snapshots[0].warnings == snapshot.warnings


async def test_marketplace_lines_have_an_issuer_of_their_own(books: Billing) -> None:
    answer = await books.deliver(focus_csv(MAY, {"InvoiceIssuerName": "Shop", "InvoiceId": "S-1", "BilledCost": "7"}))
    assert [(s.issuer, s.billed) for s in answer.snapshots] == [("Cloud Inc.", Decimal(100)), ("Shop", Decimal(7))]
    assert {s.issuer: s.billed for s in (await invoices(books)).standings} == {"Cloud Inc.": 100, "Shop": 7}


async def test_another_currency_counts_at_the_rate_of_its_day(tmp_path: Path, books_url: str) -> None:
    euro = {"BillingCurrency": "EUR", "BilledCost": "92.00"}
    later = {"ChargePeriodStart": "2026-05-04T00:00:00Z", "ChargePeriodEnd": "2026-05-05T00:00:00Z"}
    async with billing(tmp_path, configured(CONFIG + RATES, database_url=books_url)) as (books, _):
        answer = await books.deliver(focus_csv(euro, {**euro, **later}, {"BilledCost": "1.00"}))
        assert [(s.currency, s.rows, s.billed) for s in answer.snapshots] == [
            ("EUR", 2, Decimal(184)),
            ("USD", 1, Decimal(1)),
        ]
        assert (await books.report()).spend == 101
        assert (await books.report("2026-05-04")).spend == 115
        replaced = await books.deliver(focus_csv({"BilledCost": "2.00"}))  # in which there are no euros any more
        assert [s.replaced for s in replaced.snapshots] == [True]
        assert (await books.report()).spend == 2
        assert [one.active for one in (await invoices(books)).imported] == [True, False, False]


async def test_a_currency_without_a_rate_is_refused_by_name(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        answer = await books.deliver(focus_csv({"BillingCurrency": "credits"}))
    (row_error,) = answer.refusals
    assert (row_error.line, row_error.column) == (2, "BillingCurrency")
    assert "'credits': no [[billing.rate]] is in force on 2026-05-03" in row_error.reason


async def test_a_changed_rate_and_a_new_machine_count_from_the_next_start_on(tmp_path: Path, books_url: str) -> None:
    bus = MemoryBus()
    hour = {"ChargePeriodStart": "2026-05-03T05:00:00Z", "ChargePeriodEnd": "2026-05-03T06:00:00Z"}
    row = {"BillingCurrency": "EUR", "BilledCost": "92.00", "ResourceId": "i-new", **hour}
    async with billing(tmp_path, configured(CONFIG + RATES, database_url=books_url), bus) as (books, _):
        await books.deliver(focus_csv(row))
        await books.deliver(focus_csv({**row, "BilledCost": "46.00", "BillingAccountId": "acc-2"}), source="other")
        before = await books.report()
        assert (before.spend, before.causes["unattributed"]) == (Decimal(150), Decimal(150))
    changed = CONFIG.replace('"i-a"', '"i-new"') + RATES.replace("0.92", "0.46")
    async with billing(tmp_path, configured(changed, database_url=books_url), bus) as (books, _):
        await publish_transition(bus, "a-1", 5, "ready")
        await publish_transition(bus, "a-1", 6, "asleep")
        after = await until(books.report, lambda report: report.spend == 300)
        report = await until(books.report, lambda report: report.causes["warm_idle"] == 300)
        assert report.revision > before.revision
        assert after.causes["unattributed"] == 0
        assert [one.active for one in (await invoices(books)).imported] == [True, True, False, False]


async def test_reading_again_brings_nothing_back_that_was_replaced(tmp_path: Path, books_url: str) -> None:
    bus = MemoryBus()
    june = {
        "BillingPeriodStart": "2026-06-01T00:00:00Z",
        "BillingPeriodEnd": "2026-07-01T00:00:00Z",
        "ChargePeriodStart": "2026-06-03T00:00:00Z",
        "ChargePeriodEnd": "2026-06-04T00:00:00Z",
    }
    async with billing(tmp_path, configured(database_url=books_url), bus) as (books, _):
        await books.deliver(focus_csv(MAY, {**MAY, **june}))
        await books.deliver(focus_csv({**MAY, "BilledCost": "90.00"}))  # May alone
    changed = CONFIG.replace('"vol-a"', '"vol-a", "i-new"')
    async with billing(tmp_path, configured(changed, database_url=books_url), bus) as (books, _):
        listing = await until(lambda: invoices(books), lambda listing: len(listing.imported) == 5)
        active = {one.period_start[:7]: one.billed for one in listing.imported if one.active}
        assert active == {"2026-05": Decimal(90), "2026-06": Decimal(100)}
        assert (await books.report()).spend == 90
        assert (await books.report("2026-06-03")).spend == 100


async def test_an_append_source_that_is_read_again_adds_nothing(tmp_path: Path, books_url: str) -> None:
    bus, appends = MemoryBus(), '[billing]\nappend_sources = ["cloud"]\n'
    async with billing(tmp_path, configured(CONFIG + appends, database_url=books_url), bus) as (books, _):
        await books.deliver(focus_csv(MAY))
        await books.deliver(focus_csv({**MAY, "BilledCost": "-30.00"}))
    changed = CONFIG.replace('"vol-a"', '"vol-a", "i-new"') + appends
    async with billing(tmp_path, configured(changed, database_url=books_url), bus) as (books, _):
        await until(lambda: invoices(books), lambda listing: len(listing.imported) == 4)
        assert (await books.report()).spend == 70
        await books.deliver(focus_csv(MAY))  # the same again
        assert (await books.report()).spend == 70


async def test_an_import_that_outlasts_the_drain_is_ended_and_leaves_all_as_it_was(
    tmp_path: Path, books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads until the drain ends it, however fast or slow either is."""
    begun, ended = asyncio.Event(), threading.Event()
    loop, read, interrupt = asyncio.get_running_loop(), DuckdbInvoiceReader.read, DuckdbInvoiceReader.interrupt

    def read_on(reading: DuckdbInvoiceReader, files: Sequence[tuple[DeliveredFile, Path]], *, parts: bool) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert ended.wait(PATIENCE_SECONDS), "nobody ended it"
        read(reading, files, parts=parts)

    def interrupted(reading: DuckdbInvoiceReader) -> None:
        interrupt(reading)
        ended.set()

    bus, config = MemoryBus(), configured(f'{CONFIG}[billing]\ndrain_grace = "0s"\n', database_url=books_url)
    async with billing(tmp_path, config, bus) as (books, _):
        await books.deliver(focus_csv(MAY))
        before = await books.report()
        monkeypatch.setattr(DuckdbInvoiceReader, "read", read_on)
        monkeypatch.setattr(DuckdbInvoiceReader, "interrupt", interrupted)
        outlasting = asyncio.create_task(books.ask_import(focus_csv({"BilledCost": "1"})))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
    assert "shutting down" in decode(await outlasting, ErrorReply).reason
    monkeypatch.undo()
    async with billing(tmp_path, config, bus) as (books, _):
        assert await books.report() == before
        assert len((await invoices(books)).imported) == 1
