"""Builds billing: the only place that names its concrete classes. One replica leads, the others stand by."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.accrual_store import SqlAccrualStore
from services.billing.adapters.band_store import SqlBandStore
from services.billing.adapters.day_fingerprints import SqlDayFingerprints
from services.billing.adapters.day_store import SqlDayStore
from services.billing.adapters.export.report_files import render_files
from services.billing.adapters.file_sources import open_configured_source
from services.billing.adapters.fleet_store import SqlFleetStore
from services.billing.adapters.hyperstack_bill import HyperstackBill
from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from services.billing.adapters.invoice_store import SqlInvoiceStore
from services.billing.adapters.payable_store import SqlPayableStore
from services.billing.adapters.revision_store import SqlRevisionStore
from services.billing.adapters.schema import BOOKS_FILE, MIGRATIONS, VERSION_TABLE
from services.billing.adapters.transition_store import SqlTransitionStore
from services.billing.app.band_maker import BandMaker
from services.billing.app.book_gauges import BookGauges
from services.billing.app.budget_gates import BudgetGates
from services.billing.app.day_reports import DayReports
from services.billing.app.fleet_journal import FleetJournalReader
from services.billing.app.invoice_fetcher import InvoiceFetcher
from services.billing.app.invoice_importer import InvoiceImporter
from services.billing.app.invoice_rereader import InvoiceRereader
from services.billing.app.invoice_service import InvoiceService
from services.billing.app.key_names import KeyNames
from services.billing.app.meter_client import MeterClient
from services.billing.app.period_reports import PeriodReports
from services.billing.app.public_books import PublicBooks
from services.billing.app.report_cache import ReportCache
from services.billing.app.report_publisher import ReportPublisher, last_published, published_revision
from services.billing.app.running_bill import RunningBillPoller
from services.billing.app.statements import Statements
from services.billing.app.trails import Trails
from services.billing.core.reports.key_names import add_key_names
from services.billing.metrics import BookMetrics, Metrics
from services.billing.settings import settings
from shared import database
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.bus.topology import BUDGET
from shared.bus.view import View
from shared.clouds.hyperstack import HyperstackAccount, api_key
from shared.clouds.throttle import Throttle
from shared.config.sections import Config
from shared.leadership import Leadership
from shared.messages.budget import BudgetGate
from shared.periodic import PeriodicTask, PeriodicTasks, every
from shared.runtime.process import Runtime
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

GATE_SECONDS = 10.0
"""How often the gates are updated; a machine that changes its state triggers an update at once."""
DAILY_SECONDS = 60.0
"""How often changed days are published and due bands are made."""
GAUGES_SECONDS = 300.0
"""How often the gauges of the books are read, on every replica."""
AGAIN_SECONDS = 3600.0
"""How often stale imports are looked for; they become stale only with a change of the configuration."""


@asynccontextmanager
async def service(runtime: Runtime) -> AsyncIterator[None]:
    """Run the service, leading or standing by. On exit the import under way may finish within the drain's grace."""
    url = database.database_url(runtime.config, runtime.data_dir, BOOKS_FILE)
    on_fault = partial(runtime.health.report, "database")
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE, on_fault=on_fault) as engine:
        bill = hyperstack_bill(runtime.config)
        leader = BillingLeader(runtime, engine, bill)
        works = PeriodicTasks(runtime.registry)
        leadership = Leadership(leader.begin, works)
        runtime.health.add_check("work", lambda: works.fault)
        runtime.health.add_alarm("work", lambda: works.alarm)
        lease = Lease(runtime.bus, subjects.BILLING_LEASE, runtime.instance, runtime.monotonic)
        await lease.renew()
        budget: View[BudgetGate] = View(BUDGET, BudgetGate, lambda scope: leader.show_gate(scope, budget.get(scope)))
        await budget.start(runtime.bus)
        gauges = PeriodicTask(name="gauges", run=_book_gauges(runtime, engine).refresh, pause=every(GAUGES_SECONDS))
        tasks = [
            runtime.keep_lease(lease),
            runtime.spawn(leadership.run(lease), "leader's work"),
            runtime.spawn(works.repeat(gauges), gauges.name),
        ]
        try:
            yield
        finally:
            await leader.drain(runtime.config.billing.drain_grace)
            await cancel_and_wait(tasks)  # they work with the engine that is closed next
            await lease.release()
            await budget.stop()
            if bill is not None:
                await bill.close()


class BillingLeader:
    """The leader's work: replies, the journal, the gates, publication."""

    def __init__(self, runtime: Runtime, engine: AsyncEngine, bill: HyperstackBill | None) -> None:
        bus, config = runtime.bus, runtime.config
        self._bus = bus
        self._metrics = Metrics(runtime.registry)
        chosen = settings(config)
        books, meter = SqlTransitionStore(engine), MeterClient(bus)
        self._names = names = KeyNames()
        self._reports = DayReports(
            meter,
            SqlDayStore(engine),
            SqlRevisionStore(engine),
            chosen,
            self._metrics,
            published=partial(published_revision, bus),
            now=runtime.now,
            names=names,
        )
        invoice_book, room = SqlInvoiceStore(engine), runtime.data_dir / "imports"
        self._imports = InvoiceImporter(
            bus,
            invoice_book,
            DuckdbInvoiceReader,
            chosen,
            self._metrics,
            work=room,
            instance=runtime.instance,
            now=runtime.now,
        )
        self._fetches = fetches = [
            InvoiceFetcher(bus, source, open_configured_source, self._imports, self._metrics, now=runtime.now)
            for source in config.billing.source
        ]
        self._rereads = rereads = InvoiceRereader(invoice_book, self._imports)
        self._invoices = InvoiceService(
            invoice_book,
            SqlPayableStore(engine),
            lambda: (one.state for one in fetches),
            lambda: rereads.faults,
            now=runtime.now,
        )
        self._keep_fleet = partial(SqlFleetStore(engine).keep, chosen.known)
        self._now = runtime.now
        self._journal = FleetJournalReader(bus, books, self._metrics)
        self._bills = None if bill is None else _bills(runtime, bill, SqlAccrualStore(engine), self._metrics)
        shelf = ReportCache(
            self._reports, SqlRevisionStore(engine).newest_report, meter, SqlDayFingerprints(engine), now=runtime.now
        )
        prices = SqlBandStore(engine)
        self._periods = PeriodReports(shelf, SqlDayStore(engine), chosen, self._metrics, names)
        self._bands = BandMaker(prices, shelf, chosen, now=runtime.now)
        self._trails = Trails(
            self._reports,
            SqlRevisionStore(engine).newest_revisions,
            lambda: [one.state for one in fetches],
            now=runtime.now,
        )
        self._statements = Statements(meter, prices, names)
        self._publisher = ReportPublisher(
            bus,
            shelf,
            lambda report: render_files(add_key_names(report, names())),
            self._metrics,
            now=runtime.now,
            public=PublicBooks(bus, self._bands.todays, chosen.weights, chosen.ladder.min_tokens, now=runtime.now),
        )
        self._gatekeeper = partial(BudgetGates, bus, self._reports, self._bills, config, self._metrics, now=runtime.now)
        self._bill_interval = config.billing.bill_interval

    def show_gate(self, scope: str, gate: BudgetGate | None) -> None:
        """Show a gate as the bus has it, whoever leads."""
        if gate is not None:
            self._metrics.gate(scope, gate)

    async def drain(self, grace: float) -> None:
        """Let the import under way finish."""
        try:
            async with asyncio.timeout(grace):
                await self._imports.idle()
        except TimeoutError:
            log.warning("import_interrupted", grace=grace)
            self._imports.interrupt()
            await self._imports.idle()

    async def begin(self, stack: AsyncExitStack) -> Sequence[PeriodicTask]:
        """Begin a term as the leader."""
        gate = self._gatekeeper()
        await self._names.start(self._bus)
        stack.push_async_callback(self._names.stop)
        for subject, answer in (
            (subjects.BILLING_REPORT, self._reports.answer),
            (subjects.BILLING_REPORTS, self._periods.answer),
            (subjects.BILLING_BANDS, self._bands.answer),
            (subjects.BILLING_TRAIL, self._trails.answer),
            (subjects.BILLING_STATEMENT, self._statements.answer),
            (subjects.BILLING_IMPORT, self._imports.answer),
            (subjects.BILLING_IMPORT_STATUS, self._imports.answer_status),
            (subjects.BILLING_INVOICES, self._invoices.list),
            (subjects.BILLING_PAYABLE, self._invoices.record_payable),
            (subjects.BILLING_GATE, gate.answer),
        ):
            responding = await self._bus.respond("billing", subject, answer)
            stack.push_async_callback(responding.stop)
        self._metrics.leading.set(1)
        stack.callback(self._metrics.stand_by)
        log.info("leadership_acquired")
        works = [
            PeriodicTask(name="journal", run=self._journal.read_batch, pause=every(0.0)),
            PeriodicTask(name="fleet", run=lambda: self._keep_fleet(self._now()), pause=every(AGAIN_SECONDS)),
            PeriodicTask(name="reading invoices again", run=self._rereads.reread_stale, pause=every(AGAIN_SECONDS)),
            self._daily("bands", self._bands.make_bands),
            self._daily("publication", self._publisher.publish_changed),
        ]
        works += [PeriodicTask(name=fetches.name, run=fetches.poll, pause=fetches.wait) for fetches in self._fetches]
        if self._bills is not None:
            works.append(PeriodicTask(name="running bill", run=self._bills.poll, pause=every(self._bill_interval)))
        if gate.has_limits:
            works.append(PeriodicTask(name="budget gate", run=gate.update, pause=partial(self._until_gates_due, gate)))
        return works

    async def _until_gates_due(self, gate: BudgetGates) -> None:
        """Wait for the next update: a machine's transition or a new day makes it due early."""
        await self._journal.wait_for_transition(gate.pause(GATE_SECONDS))

    def _daily(self, name: str, do: Callable[[], Awaitable[str | None]]) -> PeriodicTask:
        """Make a task that starts after stale invoices have been read again: earlier it would only add revisions."""

        async def run_when_ready() -> str | None:
            return await do() if self._rereads.done else None

        return PeriodicTask(name=name, run=run_when_ready, pause=every(DAILY_SECONDS), initial_delay_s=DAILY_SECONDS)


def _book_gauges(runtime: Runtime, engine: AsyncEngine) -> BookGauges:
    return BookGauges(
        SqlPayableStore(engine),
        SqlRevisionStore(engine).newest_reports,
        settings(runtime.config).weights,
        BookMetrics(runtime.registry),
        published=partial(last_published, runtime.bus),
        now=runtime.now,
    )


def hyperstack_bill(config: Config) -> HyperstackBill | None:
    """Return None if no tier is Hyperstack's. Raises `Misconfigured` if its API key is missing."""
    if not any(tier.provider == "hyperstack" for tier in config.tier):
        return None
    account = config.provider.hyperstack
    assert account is not None, "checked when the file was read"
    return HyperstackBill(HyperstackAccount(account.base_url, api_key(), Throttle(account.calls_per_minute)))


def _bills(runtime: Runtime, bill: HyperstackBill, accruals: SqlAccrualStore, metrics: Metrics) -> RunningBillPoller:
    config = runtime.config
    machines = [machine for machine in config.machine if config.tiers[machine.tier].provider == bill.provider]
    return RunningBillPoller(
        bill,
        accruals,
        {machine.instance or "": machine.id for machine in machines},
        frozenset(m.id for m in machines if config.tiers[m.tier].price_per_hour is not None),
        metrics,
        now=runtime.now,
    )
