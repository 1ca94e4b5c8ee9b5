"""Books that an older reader filled are read again, for what still counts, and say so; rounding is remembered."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from services.billing.adapters import csv_lines
from services.billing.adapters.invoice_store import SqlInvoiceStore
from services.billing.app.invoice_importer import InvoiceImporter
from services.billing.app.invoice_rereader import InvoiceRereader
from services.billing.core.invoice_files import import_settings, sql_macros
from services.billing.core.invoice_files.delivery import StaleDelivery
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.messages.codec import decode, encode
from shared.messages.invoices import DeliveredFile, ImportAnswer, ImportRequest, Invoices, InvoicesQuery
from tests.integration.billing.billing_service import CONFIG, Billing, billing, configured
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import focus_csv


@contextmanager
def older_reader() -> Iterator[None]:
    """The reader that cut the letter v, and only white space besides."""
    with pytest.MonkeyPatch.context() as patch:
        old = sql_macros.CREATE_MACROS_SQL.replace(
            sql_macros.BLANK_CHARACTERS.replace("\n", "\\n").replace("\r", "\\r"), " \\t\\r\\n\\fv"
        )
        old = old.replace("WHEN is_bare(x)", "WHEN false")
        assert old != sql_macros.CREATE_MACROS_SQL
        patch.setattr("services.billing.adapters.charge_database.CREATE_MACROS_SQL", old)
        patch.setattr(csv_lines, "_BOM", "")
        patch.setattr(import_settings, "READER_VERSION", 1)
        yield


async def invoices(books: Billing) -> Invoices:
    return decode(
        await books.bus.request(subjects.BILLING_INVOICES, encode(InvoicesQuery()), timeout=PATIENCE_SECONDS), Invoices
    )


async def accounts(books: Billing) -> dict[str, Decimal]:
    return {one.account: one.billed for one in (await invoices(books)).imported if one.active}


async def test_snapshots_that_lost_the_letter_v_are_read_again(tmp_path: Path, books_url: str) -> None:
    bus, config = MemoryBus(), configured(database_url=books_url)
    disk = {"BillingAccountId": "dev", "BilledCost": "5", "ResourceId": "vol-a", "ServiceCategory": "Storage"}
    other = {"BillingAccountId": "de", "BilledCost": "2", "InvoiceId": "INV-v"}
    with older_reader():
        async with billing(tmp_path, config, bus) as (books, _):
            await books.deliver(focus_csv(disk, other))
            assert await accounts(books) == {"de": 7}
            before = await books.report()
            assert before.causes["unattributed"] == 5
    async with billing(tmp_path, config, bus) as (books, _):
        assert await until(lambda: accounts(books), lambda counts: len(counts) == 2) == {"dev": 5, "de": 2}
        after = await books.report()
        assert after.causes["unattributed"] == 0
        assert after.revision > before.revision
        assert "newer reader" in str(after.change)
        listing = await invoices(books)
        assert {one.reread for one in listing.imported if one.active} == {"by a newer version"}
        assert {standing.invoice_id for standing in listing.standings} >= {"INV-v"}


async def test_a_byte_order_mark_made_an_account_that_is_gone_when_it_is_read_again(
    tmp_path: Path, books_url: str
) -> None:
    bus, config = MemoryBus(), configured(database_url=books_url)
    rows = [{"BillingAccountId": "c05c", "BilledCost": "10"}, {"BillingAccountId": "c05c", "BilledCost": "2.50"}]
    first = focus_csv({**rows[0], "BillingAccountId": "\ufeffc05c"}, rows[1])
    with older_reader():
        async with billing(tmp_path, config, bus) as (books, _):
            await books.deliver(first)
            await books.deliver(focus_csv(*rows), file="next.csv")
            assert sum((await accounts(books)).values()) == Decimal("22.50")
    async with billing(tmp_path, config, bus) as (books, _):
        assert await until(lambda: accounts(books), lambda counts: len(counts) == 1) == {"c05c": Decimal("12.50")}
        counts = [one for one in (await invoices(books)).imported if one.active]
        assert [one.files[0].name for one in counts] == ["next.csv"]
        assert (await books.report()).spend == Decimal("12.50")


async def test_an_account_that_another_one_took_the_place_of_comes_back(tmp_path: Path, books_url: str) -> None:
    bus, config = MemoryBus(), configured(database_url=books_url)
    first = focus_csv({"BillingAccountId": "de", "BilledCost": "2"}, {"BillingAccountId": "x", "BilledCost": "1"})
    with older_reader():
        async with billing(tmp_path, config, bus) as (books, _):
            await books.deliver(first)
            await books.deliver(focus_csv({"BillingAccountId": "dev", "BilledCost": "5"}), file="next.csv")
            assert await accounts(books) == {"de": 5, "x": 1}
    async with billing(tmp_path, config, bus) as (books, _):
        assert await until(lambda: accounts(books), lambda counts: len(counts) == 3) == {"de": 2, "dev": 5, "x": 1}


async def test_a_delivery_whose_file_is_lost_shows_the_reason_until_it_is_imported_again(
    tmp_path: Path, books_url: str
) -> None:
    bus, config = MemoryBus(), configured(database_url=books_url)
    lost, other = (focus_csv({"BillingAccountId": account, "ResourceId": "vol-a"}) for account in ("1", "2"))
    with older_reader():
        async with billing(tmp_path, config, bus) as (books, _):
            await books.deliver(lost, file="lost.csv")
            await books.deliver(other, file="other.csv")
    del bus._objects[topology.INVOICES.name, hashlib.sha256(lost).hexdigest()]
    async with billing(tmp_path, config, bus) as (books, _):

        async def reread() -> dict[str, tuple[str, bool]]:
            active = [one for one in (await invoices(books)).imported if one.active]
            return {one.files[0].name: (one.reread, "upload the file" in one.not_reread) for one in active}

        newer = ("by a newer version", False)
        assert await until(reread, lambda counts: counts["lost.csv"][1]) == {"lost.csv": ("", True), "other.csv": newer}
        assert (await books.report()).causes["unattributed"] == 1
        await books.deliver(lost, file="lost.csv")
        assert await reread() == {"lost.csv": ("", False), "other.csv": newer}
        assert (await books.report()).causes["unattributed"] == 0


async def test_a_delivery_that_cannot_be_read_again_is_logged_once(tmp_path: Path) -> None:
    stale = StaleDelivery(1, "cloud", (DeliveredFile(name="a.csv", sha256="0"),))
    faults = iter(["lost", "lost", "damaged", None])

    class FakeImporter:
        async def settings_digest(self) -> str:
            return "2-"

        async def reread(self, stale: StaleDelivery) -> str | None:
            return next(faults)

    class FakeStore:
        async def list_stale(self, digest: str) -> tuple[StaleDelivery, ...]:
            return (stale,)

    rereads = InvoiceRereader(cast("SqlInvoiceStore", FakeStore()), cast("InvoiceImporter", FakeImporter()))
    assert not rereads.done
    with capture_logs() as logs:
        for expected in ("lost", "lost", "damaged"):
            await rereads.reread_stale()
            assert rereads.faults == {1: expected}
        await rereads.reread_stale()
    assert rereads.done
    assert not rereads.faults
    assert [line["event"] for line in logs] == ["invoices_not_reread", "invoices_not_reread", "invoices_reread"]


async def test_a_rounded_import_reports_its_residue_and_stays_rounded(tmp_path: Path, books_url: str) -> None:
    bus = MemoryBus()
    data = focus_csv({"BilledCost": "0.1000000000000055"}, {"BilledCost": "0.2"})
    name = hashlib.sha256(data).hexdigest()
    request = ImportRequest(source="cloud", files=(DeliveredFile(name="bill.csv", sha256=name),), round=True)
    residue = Decimal("0.1000000000000055") - Decimal("0.100000000000")
    async with billing(tmp_path, configured(database_url=books_url), bus) as (books, _):
        refused = await books.deliver(data)
        assert [(r.line, r.column) for r in refused.refusals] == [(2, "BilledCost")]
        assert "--round" in refused.refusals[0].reason
        await bus.put_object(topology.INVOICES, name, data)
        answer = decode(
            await bus.request(subjects.BILLING_IMPORT, encode(request), timeout=PATIENCE_SECONDS), ImportAnswer
        )
        assert [(s.billed, s.residue) for s in answer.snapshots] == [(Decimal("0.3"), residue)]
    changed = configured(CONFIG.replace('"vol-a"', '"vol-a", "i-x"'), database_url=books_url)
    async with billing(tmp_path, changed, bus) as (books, _):
        listing = await until(lambda: invoices(books), lambda listing: len(listing.imported) == 2)
        newest = listing.imported[0]
        assert (newest.active, newest.residue, newest.billed) == (True, residue, Decimal("0.3"))
        assert newest.reread == "the configuration changed"


async def test_a_source_may_be_configured_to_be_rounded(tmp_path: Path) -> None:
    (tmp_path / "bills").mkdir()
    (tmp_path / "bills" / "may.csv").write_bytes(focus_csv({"BilledCost": "0.1000000000000055"}))
    source = f'[[billing.source]]\nname = "cloud"\nurl = "{tmp_path}/bills"\nround = true\n'
    async with billing(tmp_path, configured(CONFIG + source)) as (books, _):
        listing = await until(lambda: invoices(books), lambda listing: bool(listing.imported))
        assert [(one.billed, one.residue) for one in listing.imported] == [(Decimal("0.1"), Decimal("5.5e-15"))]
