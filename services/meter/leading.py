"""Work that one of several replicas does: the engines are read once, not once for each meter."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import structlog

from services.meter.adapters.engine_book import EngineBook
from services.meter.adapters.scraper import Scraper
from services.meter.audit_metrics import AuditMetrics
from services.meter.auditor import Auditor
from services.meter.fleet_notes import FleetNotes
from services.meter.reader import EngineReader
from shared.bus import subjects, topology
from shared.bus.lease import Lease
from shared.bus.view import View
from shared.database import AWAY, told
from shared.errors import BusUnavailable
from shared.messages.waker import MachineRecord
from shared.runtime.process import Runtime
from shared.tasks import end

log = structlog.get_logger()

LOOK_SECONDS = 0.25
RETRY_SECONDS = 1.0
GATEWAYS_SECONDS = 2.0
AUDIT_SECONDS = 900.0
"""A day of a million events is counted again in some ten seconds of a core."""
FORGET_SECONDS = 3600.0
"""Between two looks for notes that are too old."""

Works = Sequence[tuple[str, Callable[[], Awaitable[None]], float]]
"""Each with its name and the seconds between the end of one and the next."""


class AuditDesk:
    """The leader's work. Two that take themselves for the leader do no harm: an older reading changes nothing."""

    def __init__(self, runtime: Runtime, book: EngineBook, auditor: Auditor, metrics: AuditMetrics) -> None:
        self._bus = runtime.bus
        self._config = runtime.config
        self._now = runtime.now
        self._monotonic = runtime.monotonic
        self._book = book
        self._auditor = auditor
        self._metrics = metrics

    async def lead(self, lease: Lease) -> None:
        """Work whenever the lease is held, for ever."""
        while True:
            if lease.held:
                try:
                    await self._work(lease)
                except BusUnavailable as error:
                    log.warning("cannot take up the audit, trying again", reason=str(error))
                    await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def _work(self, lease: Lease) -> None:
        """Until the lease is lost."""
        async with AsyncExitStack() as stack:
            scraper = Scraper()
            stack.push_async_callback(scraper.close)
            notes = FleetNotes(self._bus, self._book, self._now)
            listening = await self._bus.subscribe(subjects.ACTIVITIES, notes.on_activity)
            stack.push_async_callback(listening.stop)
            changed = asyncio.Event()
            fleet = View(topology.FLEET, MachineRecord, lambda _machine: changed.set())
            reader = EngineReader(
                self._bus,
                fleet,
                self._book,
                scraper,
                self._metrics,
                changed=changed,
                interval=self._config.meter.scrape_interval,
                stays=self._stays,
                now=self._now,
                monotonic=self._monotonic,
            )
            await fleet.start(self._bus)
            stack.push_async_callback(fleet.stop)
            self._metrics.leading.set(1)
            stack.callback(self._metrics.leading.set, 0)
            log.info("reading the engines")
            works: Works = (
                ("journal", notes.read_on, 0.0),
                ("gateways", notes.look_at_gateways, GATEWAYS_SECONDS),
                ("audit", self._auditor.make_all, AUDIT_SECONDS),
                ("old notes", lambda: self._book.forget(self._now()), FORGET_SECONDS),
            )
            tasks = [asyncio.create_task(reader.run()), *(asyncio.create_task(_repeat(*work)) for work in works)]
            try:
                while lease.held and not any(task.done() for task in tasks):  # noqa: ASYNC110 - a lease ends by the clock
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                await end(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.result()

    def _stays(self, tier: str) -> bool:
        """Nobody starts and ends the engine of a `static` machine."""
        found = self._config.tiers.get(tier)
        return found is not None and found.provider == "static"


async def _repeat(name: str, work: Callable[[], Awaitable[None]], every: float) -> None:
    while True:
        try:
            await work()
        except (BusUnavailable, *AWAY) as error:
            log.warning("not done, trying again", work=name, reason=told(error))
            await asyncio.sleep(RETRY_SECONDS)
        else:
            await asyncio.sleep(every)
