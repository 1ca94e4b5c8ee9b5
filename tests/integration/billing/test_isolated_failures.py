"""A piece of billing's work that fails takes no other with it: a day, a gate, a delivery, a journal entry."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from services.billing.adapters.file_sources import open_configured_source
from services.billing.adapters.transition_store import SqlTransitionStore
from services.billing.app.budget_gates import BudgetGates
from services.billing.app.fleet_journal import FleetJournalReader
from services.billing.app.invoice_fetcher import InvoiceFetcher
from services.billing.app.invoice_importer import InvoiceImporter
from services.billing.app.report_cache import RETRY_SECONDS
from services.billing.core.reports.day_report import failed_report
from services.billing.core.reports.period_report import build_period_report
from services.billing.metrics import Metrics
from shared.budget_gates import FLEET_SCOPE
from shared.bus.memory import MemoryBus
from shared.bus.subjects import journal
from shared.bus.topology import BOOKS
from shared.config.invoices import InvoiceSource
from shared.errors import BusUnavailable, Rejected
from shared.messages.billing import DayReport
from shared.messages.codec import encode
from shared.messages.invoices import ImportAnswer, ImportRequest
from shared.messages.waker import Transition
from tests.integration.billing import test_budget_gates, test_report_cache
from tests.integration.billing.fake_reports import YESTERDAY, DyingBus, FakeReportCache
from tests.integration.billing.test_budget_gates import Desk
from tests.integration.billing.test_report_cache import FOURTH, THIRD, FakeDayReports, Stand
from tests.integration.billing.test_report_publisher import PublisherHarness, figure
from tests.unit.billing.report_builders import WEIGHTS, day, report


class DamagedReports(FakeDayReports):
    """One day cannot be made."""

    error: Exception | None = None

    async def report(self, day: str) -> DayReport:
        if day == THIRD and self.error is not None:
            self.made.append(day)
            raise self.error
        return await super().report(day)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with test_report_cache.opened(f"sqlite+aiosqlite:///{tmp_path / 'books.sqlite'}") as made:
        made.reports = DamagedReports()
        yield made


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with test_budget_gates.desk_on(MemoryBus(), f"sqlite+aiosqlite:///{tmp_path / 'books.sqlite'}") as made:
        yield made


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RecursionError(), Rejected("the meter refused: too large")])
async def test_a_day_that_cannot_be_made_is_null_and_blocks_no_other(stand: Stand, error: Exception) -> None:
    reports = stand.reports
    assert isinstance(reports, DamagedReports)
    reports.error = error
    cache = stand.cache()
    days = {each.day: each for each in await cache.reports([THIRD, FOURTH])}
    assert (days[THIRD].failed, days[THIRD].spend, days[THIRD].state) == (
        True,
        None,
        None,
    )
    assert days[THIRD].reason == (f"the day could not be made: {type(error).__name__}: {error}: see the log of billing")
    assert not days[FOURTH].failed
    reports.made.clear()
    await cache.reports([THIRD, FOURTH])
    assert reports.made == [], "it is not tried again at once"
    stand.now += RETRY_SECONDS
    await cache.reports([THIRD, FOURTH])
    stand.now += RETRY_SECONDS
    await cache.reports([THIRD, FOURTH])
    assert reports.made == [THIRD], "and ever later"
    reports.error = None
    stand.tokens[THIRD] = 7
    assert not (await cache.reports([THIRD]))[0].failed, "what it is made from has changed"


async def test_an_absent_meter_is_no_day_s_fault(stand: Stand) -> None:
    assert isinstance(stand.reports, DamagedReports)
    away = Rejected("the meter does not answer")
    away.__cause__ = BusUnavailable("no answer")
    stand.reports.error = away
    with pytest.raises(Rejected):
        await stand.cache().reports([THIRD])


def test_a_period_with_a_failed_day_is_unknown_and_names_the_day() -> None:
    whole = build_period_report(
        [report(day(1), "1.00", 5), failed_report(day(2), "KeyError: x"), report(day(3), "1.00")], WEIGHTS
    )
    assert (whole.spend, whole.reason) == (None, f"the day could not be made: {day(2)}")
    assert whole.complete_through in (None, day(1))


async def test_the_other_days_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, cache = DyingBus(), FakeReportCache()
    cache.put(failed_report(YESTERDAY, "KeyError: x"), figure("2026-05-02"), figure("2026-05-01"))
    publisher = PublisherHarness(memory, cache)
    put = memory.put_object

    async def refused(store: Any, name: str, data: Any) -> None:
        if name.startswith("2026-05-02"):
            raise ValueError("nobody expected it")
        await put(store, name, data)

    monkeypatch.setattr(memory, "put_object", refused)
    fault = await publisher._publisher.publish_changed()
    assert fault == f"{YESTERDAY}, 2026-05-02: the day could not be made: KeyError: x"
    assert list(await memory.published_by_key()) == ["published.2026-05-01"]
    monkeypatch.undo()
    assert await publisher._publisher.publish_changed() is not None
    assert list(await memory.published_by_key()) == ["published.2026-05-01", "published.2026-05-02"]


async def test_the_gate_is_judged_when_today_cannot_be_computed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await desk.update(6.0))[FLEET_SCOPE].open

    async def broken() -> None:
        raise KeyError("a row that nobody can attribute")

    monkeypatch.setattr(desk.budget_gates._reports, "allocate_today", broken)
    desk.hours = 7.0
    assert await desk.budget_gates.update() == "no spend is known: KeyError: 'a row that nobody can attribute'"
    gates = await desk.gates()
    assert {(gate.open, gate.reason) for gate in gates.values()} == {(False, "billing_unobservable")}
    monkeypatch.undo()
    assert await desk.budget_gates.update() is None


async def test_the_gate_is_judged_when_the_journal_is_not_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.billing.app.budget_gates.CATCH_UP_SECONDS", 0.0)
    await desk.bus.publish(journal("a-1"), b"unread")
    assert await desk.budget_gates.update() == "the journal has not been read to its end"
    assert not (await desk.gates())[FLEET_SCOPE].open


async def test_one_gate_that_cannot_be_put_leaves_the_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    put = BudgetGates._put

    async def refused(self: BudgetGates, scope: str, *rest: Any) -> None:
        if scope == FLEET_SCOPE:
            raise KeyError(scope)
        await put(self, scope, *rest)

    monkeypatch.setattr(BudgetGates, "_put", refused)
    with pytest.raises(KeyError):
        await desk.budget_gates.update()
    assert set(await desk.gates()) == set(desk.budget_gates._limits) - {FLEET_SCOPE}


async def test_one_delivery_that_fails_leaves_the_others_of_its_source(tmp_path: Path) -> None:
    taken: list[str] = []

    class Importer:
        async def import_delivery(self, request: ImportRequest) -> ImportAnswer:
            name = request.files[0].name
            if "2026-05" in name:
                raise ZeroDivisionError(name)
            taken.append(name)
            return ImportAnswer(sha256="0")

    for month in ("2026-05", "2026-06"):
        (tmp_path / "data" / f"BILLING_PERIOD={month}").mkdir(parents=True)
        (tmp_path / "data" / f"BILLING_PERIOD={month}" / "a.csv").write_bytes(month.encode())
        manifests = tmp_path / "metadata" / f"BILLING_PERIOD={month}"
        manifests.mkdir(parents=True)
        listed = f'{{"dataFiles": ["s3://b/data/BILLING_PERIOD={month}/a.csv"]}}'
        (manifests / "x-Manifest.json").write_text(listed)
    registry = CollectorRegistry()
    source = InvoiceSource(name="aws", url=str(tmp_path))
    importer = cast("InvoiceImporter", Importer())
    fetcher = InvoiceFetcher(MemoryBus(), source, open_configured_source, importer, Metrics(registry), now=lambda: 1.0)
    fault = await fetcher.poll()
    assert fault is not None
    assert fault.startswith("ZeroDivisionError: ")
    assert len(taken) == 1
    assert registry.get_sample_value("spot_billing_fetches_total", {"source": "aws", "outcome": "failed"}) == 1


@pytest.mark.parametrize("bad", [{"at": 1e300}, {"at": -1.0}, {"reason": "a\0b"}])
async def test_a_transition_that_no_database_holds_is_passed_by(desk: Desk, bad: dict[str, Any]) -> None:
    facts: dict[str, Any] = {
        "at": 1000.0,
        "machine": "a-1",
        "tier": "A",
        "from_state": None,
        "to_state": "ready",
        "reason": "test",
        "generation": 1,
    }
    registry = CollectorRegistry()
    for data in (encode(Transition(**facts | bad)), b"\xff", encode(Transition(**facts))):
        await desk.bus.publish(journal("a-1"), data)
    await FleetJournalReader(desk.bus, SqlTransitionStore(desk.engine), Metrics(registry)).read_batch()
    assert await desk.bus.backlog(BOOKS) == 0
    assert registry.get_sample_value("spot_billing_transitions_total") == 1
    assert registry.get_sample_value("spot_billing_unreadable_total") == 2
