"""Puts billing together: the one place that names its concrete classes. One replica leads, the others stand by."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.accruals import Accruals
from services.billing.adapters.books import Books
from services.billing.adapters.day_book import DayBook
from services.billing.adapters.hyperstack_bill import HyperstackBill
from services.billing.adapters.invoice_book import InvoiceBook
from services.billing.adapters.marks import Marks
from services.billing.adapters.price_book import PriceBook
from services.billing.adapters.revisions import Revisions
from services.billing.bands import BandMaker
from services.billing.bills import Bills
from services.billing.fetches import Fetches
from services.billing.forms.files import files
from services.billing.gatekeeper import Gatekeeper
from services.billing.imports import Imports
from services.billing.invoices import InvoiceDesk
from services.billing.journal import Journal
from services.billing.meter import Meter
from services.billing.metrics import Metrics
from services.billing.periods import Periods
from services.billing.publisher import Publisher
from services.billing.reports import Reports
from services.billing.settings import settings
from services.billing.shelf import Shelf
from services.billing.statements import Statements
from shared import database
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.clouds.hyperstack import HyperstackAccount, api_key
from shared.clouds.throttle import Throttle
from shared.config import Config
from shared.errors import BusUnavailable
from shared.runtime.process import Runtime
from shared.tasks import end

log = structlog.get_logger()

BOOKS_FILE = "books.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "books_version"
GATE_SECONDS = 10.0
"""How late the gate may be at a steady pace; a machine that wakes or sleeps turns it at once."""
DAILY_SECONDS = 60.0
"""How soon a changed day is published, and how late after midnight the day's bands are made."""
AGAIN_SECONDS = 3600.0
"""Between two looks whether imports are to be read in other terms, which change with the configuration only."""
RETRY_SECONDS = 1.0
LEADER_LOOK_SECONDS = 0.25
"""How soon a replica that got the lease begins to work, and one that lost it stops."""


@asynccontextmanager
async def opened(runtime: Runtime) -> AsyncIterator[None]:
    """The running service, leading or standing by. Leaving finishes the import under way, within the drain's grace."""
    url = database.url_of(runtime.config, runtime.data_dir, BOOKS_FILE)
    async with database.opened(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        bill = hyperstack_bill(runtime.config)
        office = Office(runtime, engine, bill)
        runtime.health.add("work", lambda: office.fault)
        lease = Lease(runtime.bus, subjects.BILLING_LEASE, runtime.instance, runtime.monotonic)
        await lease.renew()
        tasks = [runtime.spawn(lease.keep(), "lease"), runtime.spawn(office.lead(lease), "leader's work")]
        try:
            yield
        finally:
            await office.drain(runtime.config.billing.drain_grace)
            await end(tasks)  # they work with the engine that is closed next
            await lease.release()
            if bill is not None:
                await bill.close()


class Office:
    """The leader's work: answers, the journal, the gate."""

    def __init__(self, runtime: Runtime, engine: AsyncEngine, bill: HyperstackBill | None) -> None:
        bus, config = runtime.bus, runtime.config
        self._bus = bus
        self._metrics = Metrics(runtime.registry)
        chosen = settings(config)
        books, meter = Books(engine), Meter(bus)
        self._reports = Reports(meter, DayBook(engine), Revisions(engine), chosen, self._metrics, now=runtime.now)
        invoice_book, room = InvoiceBook(engine), runtime.data_dir / "imports"
        self._imports = Imports(bus, invoice_book, chosen, self._metrics, work=room, now=runtime.now)
        self._invoices = InvoiceDesk(invoice_book, now=runtime.now)
        self._fetches = [
            Fetches(bus, source, self._imports, self._metrics, now=runtime.now) for source in config.billing.source
        ]
        self._journal = Journal(bus, books, self._metrics)
        self._bills = None if bill is None else _bills(runtime, bill, Accruals(engine), self._metrics)
        shelf = Shelf(self._reports, Revisions(engine).newest, meter, Marks(engine), now=runtime.now)
        prices = PriceBook(engine)
        self._periods = Periods(shelf, chosen, self._metrics)
        self._bands = BandMaker(prices, shelf, chosen, now=runtime.now)
        self._statements = Statements(meter, prices)
        self._publisher = Publisher(bus, shelf, files, self._metrics, now=runtime.now)
        self._gatekeeper = partial(Gatekeeper, bus, self._reports, self._bills, config, self._metrics, now=runtime.now)
        self._bill_interval = config.billing.bill_interval
        self._faults: dict[str, str] = {}

    @property
    def fault(self) -> str | None:
        return next(iter(self._faults.values()), None)

    async def lead(self, lease: Lease) -> None:
        """Work whenever the lease is held, for ever."""
        while True:
            if lease.held:
                try:
                    await self._work(lease)
                except BusUnavailable as error:
                    log.warning("cannot take up the work, trying again", reason=str(error))
                    await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(LEADER_LOOK_SECONDS)

    async def drain(self, grace: float) -> None:
        """Let the import under way finish."""
        try:
            async with asyncio.timeout(grace):
                await self._imports.idle()
        except TimeoutError:
            log.warning("an import is still under way: nothing of it will count", grace=grace)
            self._imports.interrupt()
            await self._imports.idle()

    async def _work(self, lease: Lease) -> None:
        """Until the lease is lost."""
        gate = self._gatekeeper()
        async with AsyncExitStack() as stack:
            for subject, answer in (
                (subjects.BILLING_REPORT, self._reports.answer),
                (subjects.BILLING_REPORTS, self._periods.answer),
                (subjects.BILLING_BANDS, self._bands.answer),
                (subjects.BILLING_STATEMENT, self._statements.answer),
                (subjects.BILLING_IMPORT, self._imports.answer),
                (subjects.BILLING_INVOICES, self._invoices.told),
                (subjects.BILLING_PAYABLE, self._invoices.noted),
                (subjects.BILLING_GATE, gate.answer),
            ):
                responding = await self._bus.respond("billing", subject, answer)
                stack.push_async_callback(responding.stop)
            self._metrics.leading.set(1)
            stack.callback(self._metrics.stand_by)
            log.info("leading")
            works = [
                self._repeat("journal", self._journal.read_on, 0.0, asyncio.sleep),
                self._repeat("reading invoices again", self._imports.read_again, AGAIN_SECONDS, asyncio.sleep),
            ]
            works.extend(self._repeat(fetches.name, fetches.look, 0.0, fetches.wait) for fetches in self._fetches)
            if self._bills is not None:
                works.append(self._repeat("running bill", self._bills.read_on, self._bill_interval, asyncio.sleep))
            if gate.limited:
                works.append(self._repeat("budget gate", gate.look, GATE_SECONDS, partial(self._until_look, gate)))
            works.append(self._later("bands", self._bands.look))
            works.append(self._later("publication", self._publisher.look))
            tasks = [asyncio.create_task(work) for work in works]
            try:
                while lease.held and not any(task.done() for task in tasks):  # noqa: ASYNC110 - a lease ends by the clock
                    await asyncio.sleep(LEADER_LOOK_SECONDS)
            finally:
                # Not a task group's business: it cancels once, and one cancellation may be lost.
                await end(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.result()
        self._faults.clear()

    async def _until_look(self, gate: Gatekeeper, most: float) -> None:
        """A machine that moved, or a new day, makes it due before its time."""
        await self._journal.moved_within(gate.pause(most))

    async def _later(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Begins when the journal has been read on: figures of half of it would be revisions for nothing."""
        await asyncio.sleep(DAILY_SECONDS)
        await self._repeat(name, work, DAILY_SECONDS, asyncio.sleep)

    async def _repeat(
        self, name: str, work: Callable[[], Awaitable[None]], every: float, pause: Callable[[float], Awaitable[None]]
    ) -> None:
        while True:
            try:
                await work()
            except (BusUnavailable, *database.AWAY) as error:
                self._faults[name] = f"{name}: {database.told(error)}"
                log.warning("not done, trying again", work=name, reason=database.told(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._faults.pop(name, None)
                await pause(every)


def hyperstack_bill(config: Config) -> HyperstackBill | None:
    """None where no tier is Hyperstack's. `Misconfigured` without its key."""
    if not any(tier.provider == "hyperstack" for tier in config.tier):
        return None
    account = config.provider.hyperstack
    assert account is not None, "checked when the file was read"
    return HyperstackBill(HyperstackAccount(account.base_url, api_key(), Throttle(account.calls_per_minute)))


def _bills(runtime: Runtime, bill: HyperstackBill, accruals: Accruals, metrics: Metrics) -> Bills:
    config = runtime.config
    machines = [machine for machine in config.machine if config.tiers[machine.tier].provider == bill.provider]
    return Bills(
        bill,
        accruals,
        {machine.instance or "": machine.id for machine in machines},
        frozenset(m.id for m in machines if config.tiers[m.tier].price_per_hour is not None),
        metrics,
        now=runtime.now,
    )
