"""Imports, figures and revisions, on SQLite and on PostgreSQL."""

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from services.billing.adapters.day_store import SqlDayStore
from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from services.billing.adapters.invoice_store import SqlInvoiceStore
from services.billing.adapters.revision_store import SqlRevisionStore
from services.billing.adapters.schema import MIGRATIONS
from services.billing.core.invoice_files.delivery import Delivery, Snapshot
from services.billing.core.invoice_files.import_settings import ImportSettings
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.messages.codec import encode
from shared.messages.invoices import DeliveredFile
from shared.messages.meter import ErrorReply
from shared.messages.waker import ProviderCall
from shared.runtime.process import Runtime
from tests.integration.billing.billing_service import (
    CONFIG,
    Billing,
    billing,
    configured,
    leading,
    publish_transition,
    replica,
)
from tests.kit.waiting import until
from tests.unit.billing.cost_row_builders import DAY_WINDOW, focus_csv

HUNDRED = {"BilledCost": "100.00"}
FOURTH = {"ChargePeriodStart": "2026-05-04T00:00:00Z", "ChargePeriodEnd": "2026-05-05T00:00:00Z"}


@pytest.fixture
async def books(tmp_path: Path, books_url: str) -> AsyncIterator[Billing]:
    async with billing(tmp_path, configured(database_url=books_url)) as (service, _):
        yield service


def refused(answer: bytes) -> str:
    return msgspec.json.decode(answer, type=ErrorReply).reason


async def test_case_1_a_later_snapshot_replaces_the_one_before(books: Billing) -> None:
    first = await books.deliver(focus_csv(HUNDRED))
    second = await books.deliver(focus_csv(HUNDRED, {"BilledCost": "120.00", **FOURTH}))
    assert [first.snapshots[0].replaced, second.snapshots[0].replaced] == [False, True]
    assert (second.snapshots[0].rows, second.snapshots[0].billed) == (2, Decimal(220))
    report = await books.report()
    assert (report.spend, report.usd_per_mtok, report.state) == (Decimal(100), Decimal(2), "provisional")
    assert (await books.report("2026-05-04")).spend == 120


async def test_case_2_a_row_left_out_of_the_next_snapshot_is_gone_and_the_revision_rises(books: Billing) -> None:
    await books.deliver(focus_csv(HUNDRED, {"BilledCost": "10.00"}))
    before = await books.report()
    await books.deliver(focus_csv(HUNDRED))
    after = await books.report()
    assert (before.spend, before.revision, after.spend, after.revision) == (Decimal(110), 1, Decimal(100), 2)
    assert after.state == "provisional"


async def test_case_4_an_append_source_adds(tmp_path: Path, books_url: str) -> None:
    config = configured(CONFIG + '[billing]\nappend_sources = ["neo"]\n', database_url=books_url)
    async with billing(tmp_path, config) as (books, _):
        for amount in ("30.00", "-30.00", "27.00", "27.00"):  # the last one is the same file again
            await books.deliver(focus_csv({"BilledCost": amount}), source="neo")
        assert (await books.report()).spend == 27


async def test_the_same_file_again_changes_nothing(books: Billing) -> None:
    first = await books.deliver(focus_csv(HUNDRED))
    report = await books.report()
    assert await books.deliver(focus_csv(HUNDRED), file="renamed.csv") == first
    assert await books.report() == report
    assert report.revision == 1


async def test_another_source_for_the_same_charges_is_refused_by_name(books: Billing) -> None:
    await books.deliver(focus_csv(HUNDRED))
    mixed = focus_csv({"BillingAccountId": "acc-0"}, {"BilledCost": "7"})
    answer = await books.deliver(mixed, source="export")
    assert not answer.snapshots
    assert "'cloud'" in answer.refusals[0].reason
    assert (await books.report()).spend == 100  # the other account of the file did not come in alone


async def test_one_bad_row_keeps_the_whole_file_out(books: Billing) -> None:
    await books.deliver(focus_csv(HUNDRED))
    before = await books.report()
    answer = await books.deliver(focus_csv({"BilledCost": "50"}, {"BilledCost": "NaN"}))
    assert [(r.file, r.line, r.column) for r in answer.refusals] == [("bill.csv", 3, "BilledCost")]
    assert await books.report() == before


async def test_a_transaction_that_breaks_in_the_middle_leaves_nothing_behind(tmp_path: Path, books_url: str) -> None:
    (tmp_path / "bill.csv").write_bytes(focus_csv({"BillingAccountId": "acc-0"}, {}))
    (tmp_path / "work").mkdir()
    reading = DuckdbInvoiceReader(tmp_path / "work", ImportSettings(source="s"))
    reading.read([(DeliveredFile(name="bill.csv", sha256="0"), tmp_path / "bill.csv")])
    first, second = reading.snapshots

    def broken(snapshot: Snapshot) -> Iterator[list[tuple[Any, ...]]]:
        for batch in reading.rows(snapshot):
            yield [(*row[:3], None, *row[4:]) for row in batch] if snapshot is second else batch

    async with database.migrated_engine(books_url, MIGRATIONS, version_table="books_version") as engine:
        book = SqlInvoiceStore(engine)
        delivery = Delivery(source="s", snapshots=[first, second], rows=broken, terms="", appends=False)
        with pytest.raises(DBAPIError):
            await book.deliver(delivery, 0.0)
        assert (await SqlDayStore(engine).read(DAY_WINDOW)).rows == []
        assert await book.list_snapshots({}) == ()
        await book.deliver(dataclasses.replace(delivery, rows=reading.rows), 0.0)
        assert len((await SqlDayStore(engine).read(DAY_WINDOW)).rows) == 2
    reading.close()


async def test_losing_the_server_during_the_bulk_copy_is_a_database_error(tmp_path: Path, postgres_url: str) -> None:
    (tmp_path / "bill.csv").write_bytes(focus_csv({}))
    (tmp_path / "work").mkdir()
    reading = DuckdbInvoiceReader(tmp_path / "work", ImportSettings(source="s"))
    reading.read([(DeliveredFile(name="bill.csv", sha256="0"), tmp_path / "bill.csv")])

    def while_it_goes(snapshot: Snapshot) -> Iterator[list[tuple[Any, ...]]]:
        with psycopg.connect(postgres_url.replace("+asyncpg", ""), autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        yield from reading.rows(snapshot)

    async with database.migrated_engine(postgres_url, MIGRATIONS, version_table="books_version") as engine:
        delivery = Delivery(source="s", snapshots=reading.snapshots, rows=while_it_goes, terms="", appends=False)
        with pytest.raises(database.DATABASE_ERRORS):
            await SqlInvoiceStore(engine).deliver(delivery, 0.0)
        assert await SqlInvoiceStore(engine).list_snapshots({}) == ()
    reading.close()


async def test_a_file_whose_name_is_not_its_sha256_is_rejected(books: Billing) -> None:
    assert "SHA-256" in refused(await books.ask_import(focus_csv(HUNDRED), name="0" * 64))
    assert "source" in refused(await books.ask_import(focus_csv(HUNDRED), source=" "))


async def test_every_digit_comes_back_from_the_database(books: Billing) -> None:
    exact = "1234567890123.123456789012"
    await books.deliver(focus_csv({"BilledCost": exact}, {"BilledCost": "1e-12"}))
    assert (await books.report()).spend == Decimal("1234567890123.123456789013")


async def test_case_11_no_rows_and_no_price_is_unknown_not_nothing(books: Billing) -> None:
    report = await books.report()
    assert (report.spend, report.state, report.usd_per_mtok) == (None, None, None)
    assert (report.reason, report.tokens, report.causes) == ("cost not delivered", 50_000_000, {})


async def test_case_10_cost_without_tokens_has_no_price_per_token(books: Billing) -> None:
    books.meter.served = {}
    await books.deliver(focus_csv({"BilledCost": "57.60"}))
    report = await books.report()
    assert (report.spend, report.usd_per_mtok, report.reason) == (Decimal("57.6"), None, "no tokens")


async def test_case_28_the_bill_replaces_the_estimate(books: Billing) -> None:
    for at, state in ((-1.0, "waking"), (0.0, "ready"), (24.0, "asleep")):
        await publish_transition(books.bus, "a-1", at, state)  # type: ignore[arg-type]  # literals in a tuple
    await publish_transition(books.bus, "a-1", 0.0, "ready")  # told twice, kept once
    estimate = await until(books.report, lambda r: r.spend == Decimal("57.6"))
    assert (estimate.state, estimate.causes["warm_idle"]) == ("estimated", Decimal("57.6"))
    await books.deliver(focus_csv({"BilledCost": "52.32"}))
    billed = await books.report()
    assert (billed.state, billed.spend, billed.revision) == ("provisional", Decimal("52.32"), estimate.revision + 1)


async def test_a_report_adds_up_and_names_its_sources(books: Billing) -> None:
    midnight = DAY_WINDOW.start / 1000
    books.meter.served = {"A": 300_000_000, "B": 100_000_000}
    books.meter.busy = {"a-1": ((midnight, midnight + 43_200),)}
    for machine in ("a-1", "b-1"):
        await publish_transition(books.bus, machine, -1, "ready")
    nat = {"BilledCost": "90.00", "ResourceId": "nat-1", "ServiceCategory": "Networking"}
    tax = {"BilledCost": "9.00", "ChargeCategory": "Tax", "ResourceId": "NULL"}
    answer = await books.deliver(
        focus_csv({"BilledCost": "600.00"}, {"BilledCost": "300.00", "ResourceId": "i-b"}, nat, tax)
    )
    report = await until(books.report, lambda r: bool(r.causes) and not r.causes["unexplained"])
    assert (report.spend, report.usd_per_mtok, report.tax) == (Decimal(990), Decimal("2.475"), Decimal(9))
    assert {t.tier: (t.spend, t.usd_per_mtok) for t in report.tiers} == {
        "A": (Decimal(660), Decimal("2.2")),
        "B": (Decimal(330), Decimal("3.3")),
    }
    assert {c: a for c, a in report.causes.items() if a} == {"serving": 300, "warm_idle": 600, "shared": 90}
    assert report.directions.input.usd_per_mtok == report.usd_per_mtok
    assert report.sources == (f"bill.csv from cloud, SHA-256 {answer.sha256}",)


async def test_a_meter_that_does_not_answer_makes_no_wrong_figure(books: Billing) -> None:
    await books.deliver(focus_csv(HUNDRED))
    books.meter.refuses = True
    assert "meter" in refused(await books.ask_report())
    assert "day" in refused(await books.ask_report("2026-02-30"))


async def test_revisions_survive_a_restart(tmp_path: Path, books_url: str) -> None:
    config = configured(database_url=books_url)
    async with billing(tmp_path, config) as (books, _):
        await books.deliver(focus_csv(HUNDRED))
        first = await books.report()
        await books.deliver(focus_csv(HUNDRED, {"InvoiceId": "other"}))
        before = await books.report()
        assert before.revision == first.revision + 1
    async with billing(tmp_path, config) as (books, _):
        assert await books.report() == before
    async with database.migrated_engine(books_url, MIGRATIONS, version_table="books_version") as engine:
        assert await SqlRevisionStore(engine).newest_reports([before.day, "2026-01-01"]) == {before.day: before}


async def test_a_provider_call_and_an_unreadable_entry_hold_nothing_up(tmp_path: Path) -> None:
    bus = MemoryBus()
    call = ProviderCall(at=1.0, machine="a-1", call="start", outcome="accepted", code="", seconds=1.0)
    await bus.publish(subjects.journal("a-1"), encode(call))
    await bus.publish(subjects.journal("a-1"), b"not JSON")
    await publish_transition(bus, "a-1", -1, "ready")
    async with billing(tmp_path, configured(), bus) as (books, _):
        await until(books.report, lambda r: r.spend == Decimal("57.6"))
        assert await until(lambda: bus.backlog(topology.BOOKS), lambda n: n == 0) == 0


async def test_a_standby_is_ready_and_takes_over(tmp_path: Path) -> None:
    async with AsyncExitStack() as first:
        books, _ = await first.enter_async_context(billing(tmp_path, configured()))
        await books.deliver(focus_csv(HUNDRED))
        async with replica(tmp_path, configured(), books.bus) as standby:
            assert standby.health.faults() == {}
            assert not await leading(standby)
            await first.aclose()
            await until(lambda: leading(standby), bool)
            await books.bus.respond("meter", subjects.METER_TOKENS, books.meter.answer)
            assert (await books.report()).spend == 100


async def test_a_bus_that_goes_away_is_waited_for(tmp_path: Path) -> None:
    bus = MemoryBus()
    async with billing(tmp_path, configured(), bus) as (books, runtime):
        bus.connected = False
        await until(lambda: _faults(runtime), lambda faults: "journal" in faults.get("work", ""))
        bus.connected = True
        await publish_transition(bus, "a-1", -1, "ready")
        await until(lambda: _faults(runtime), lambda faults: not faults)
        await until(books.report, lambda r: r.spend == Decimal("57.6"))


async def _faults(runtime: Runtime) -> dict[str, str]:
    return runtime.health.faults()
