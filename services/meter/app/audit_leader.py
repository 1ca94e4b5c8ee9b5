"""The work that one of several replicas does: engines are read once, not once by each meter."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import structlog

from services.meter.app.auditor import Auditor
from services.meter.app.engine_poller import EnginePoller
from services.meter.app.fleet_events import FleetEventRecorder
from services.meter.app.recovery import Recovery
from services.meter.metrics import AuditMetrics
from services.meter.ports import EngineScraper, EngineStore
from shared.bus import subjects, topology
from shared.bus.view import View
from shared.fleet_records import record_check
from shared.messages.waker import MachineRecord
from shared.periodic import PeriodicTask, every
from shared.runtime.process import Runtime

log = structlog.get_logger()

GATEWAYS_SECONDS = 2.0
AUDIT_SECONDS = 900.0
"""Counting a day of a million events again takes some ten seconds of a core."""
RECOVERY_SECONDS = 2.0
"""Between two checks whether the ledger went back: one query."""
DELETE_SECONDS = 3600.0
"""Between two deletions of old events."""


class AuditLeader:
    """The leader's work. Two that both believe they lead do no harm: an older reading changes nothing."""

    def __init__(
        self,
        runtime: Runtime,
        store: EngineStore,
        open_scraper: Callable[[], EngineScraper],
        *,
        auditor: Auditor,
        metrics: AuditMetrics,
        recovery: Recovery,
    ) -> None:
        self._bus = runtime.bus
        self._config = runtime.config
        self._now = runtime.now
        self._monotonic = runtime.monotonic
        self._store = store
        self._open_scraper = open_scraper
        self._auditor = auditor
        self._metrics = metrics
        self._recovery = recovery

    async def begin(self, stack: AsyncExitStack) -> Sequence[PeriodicTask]:
        """Begin a term and return its tasks."""
        scraper = self._open_scraper()
        stack.push_async_callback(scraper.close)
        events = FleetEventRecorder(self._bus, self._store, self._now)
        subscription = await self._bus.subscribe(subjects.ACTIVITIES, events.on_activity)
        stack.push_async_callback(subscription.stop)
        changed = asyncio.Event()
        fleet = View(topology.FLEET, MachineRecord, lambda _machine: changed.set(), check=record_check(self._config))
        poller = EnginePoller(
            self._bus,
            fleet,
            self._store,
            scraper,
            self._metrics,
            changed=changed,
            interval_s=self._config.meter.scrape_interval,
            is_unmanaged=self._is_unmanaged,
            now=self._now,
            monotonic=self._monotonic,
        )
        await fleet.start(self._bus)
        stack.push_async_callback(fleet.stop)
        self._metrics.leading.set(1)
        stack.callback(self._metrics.stand_by)
        log.info("audit_leadership_acquired")
        return (
            PeriodicTask(name="engines", run=poller.run, pause=every(0.0)),
            PeriodicTask(name="journal", run=events.read_journal, pause=every(0.0)),
            PeriodicTask(name="gateways", run=events.check_gateways, pause=every(GATEWAYS_SECONDS)),
            PeriodicTask(name="audit", run=self._auditor.audit_recent_days, pause=every(AUDIT_SECONDS)),
            PeriodicTask(name="recovery", run=self._recovery.catch_up, pause=every(RECOVERY_SECONDS)),
            PeriodicTask(name="old notes", run=self._delete_old_events, pause=every(DELETE_SECONDS)),
        )

    async def _delete_old_events(self) -> None:
        await self._store.delete_old_events(self._now())

    def _is_unmanaged(self, tier: str) -> bool:
        """Whether nobody starts and stops the tier's engines, as for `static` machines."""
        settings = self._config.tiers.get(tier)
        return settings is not None and not settings.traits.can_sleep
