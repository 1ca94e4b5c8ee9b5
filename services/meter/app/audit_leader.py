"""Work that one of several replicas does: the engines are read once, not once for each meter."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from services.meter.adapters.engine_store import SqlEngineStore
from services.meter.adapters.scraper import MetricsScraper
from services.meter.app.auditor import Auditor
from services.meter.app.engine_poller import EnginePoller
from services.meter.app.fleet_events import FleetEventRecorder
from services.meter.app.recovery import Recovery
from services.meter.audit_metrics import AuditMetrics
from shared.bus import subjects, topology
from shared.bus.view import View
from shared.engine_keys import EngineKeys
from shared.fleet_records import record_check
from shared.messages.waker import MachineRecord
from shared.periodic import PeriodicTask, every
from shared.runtime.process import Runtime

log = structlog.get_logger()

GATEWAYS_SECONDS = 2.0
AUDIT_SECONDS = 900.0
"""A day of a million events is counted again in some ten seconds of a core."""
RECOVERY_SECONDS = 2.0
"""Between two looks whether the ledger went back: one query."""
FORGET_SECONDS = 3600.0
"""Between two looks for notes that are too old."""


class AuditLeader:
    """The leader's work. Two that take themselves for the leader do no harm: an older reading changes nothing."""

    def __init__(
        self, runtime: Runtime, book: SqlEngineStore, auditor: Auditor, metrics: AuditMetrics, recovery: Recovery
    ) -> None:
        self._bus = runtime.bus
        self._config = runtime.config
        self._now = runtime.now
        self._monotonic = runtime.monotonic
        self._book = book
        self._auditor = auditor
        self._metrics = metrics
        self._recovery = recovery

    async def begin(self, stack: AsyncExitStack) -> Sequence[PeriodicTask]:
        """Take up a term."""
        scraper = MetricsScraper(find_key=EngineKeys(self._config).find)
        stack.push_async_callback(scraper.close)
        notes = FleetEventRecorder(self._bus, self._book, self._now)
        listening = await self._bus.subscribe(subjects.ACTIVITIES, notes.on_activity)
        stack.push_async_callback(listening.stop)
        changed = asyncio.Event()
        fleet = View(topology.FLEET, MachineRecord, lambda _machine: changed.set(), check=record_check(self._config))
        reader = EnginePoller(
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
        return (
            PeriodicTask(name="engines", run=reader.run, pause=every(0.0)),
            PeriodicTask(name="journal", run=notes.read_on, pause=every(0.0)),
            PeriodicTask(name="gateways", run=notes.look_at_gateways, pause=every(GATEWAYS_SECONDS)),
            PeriodicTask(name="audit", run=self._auditor.make_all, pause=every(AUDIT_SECONDS)),
            PeriodicTask(name="recovery", run=self._recovery.catch_up, pause=every(RECOVERY_SECONDS)),
            PeriodicTask(name="old notes", run=lambda: self._book.forget(self._now()), pause=every(FORGET_SECONDS)),
        )

    def _stays(self, tier: str) -> bool:
        """Nobody starts and ends the engine of a `static` machine."""
        found = self._config.tiers.get(tier)
        return found is not None and not found.traits.can_sleep
