"""Reads the counters of every machine's engine: at a steady pace, and at once when it is ready and when it drains.

A machine drains when nothing is in flight, so its last reading includes everything that it did, unless it died.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from services.meter.core.day import day_of
from services.meter.core.engine_readings import EngineReading
from services.meter.metrics import AuditMetrics
from services.meter.ports import EngineScraper, EngineStore, ScrapeFailed
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode
from shared.messages.waker import MachineRecord
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

MAX_CONCURRENT = 16
SERVING = ("ready", "draining")
JOURNAL_TIMEOUT_S = 2.0
"""How long a new generation's first reading waits for the journal to say how it began."""
JOURNAL_POLL_S = 0.05


class EnginePoller:
    """`run` never returns. `changed` is set after each change of the fleet."""

    def __init__(
        self,
        bus: Bus,
        fleet: Mapping[str, MachineRecord],
        store: EngineStore,
        scraper: EngineScraper,
        metrics: AuditMetrics,
        *,
        changed: asyncio.Event,
        interval_s: float,
        is_unmanaged: Callable[[str], bool],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`is_unmanaged`: whether nobody starts and stops the engines of this tier."""
        self._bus = bus
        self._fleet = fleet
        self._store = store
        self._scraper = scraper
        self._metrics = metrics
        self._interval_s = interval_s
        self._is_unmanaged = is_unmanaged
        self._now = now
        self._monotonic = monotonic
        self._changed = changed
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._attempts: dict[str, tuple[tuple[int, str], float]] = {}
        """By machine: its generation and state at the last attempt, and when that was."""
        self._generations: dict[str, int] = {}
        """By machine: the generation of its last stored reading."""

    async def run(self) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                tasks = {name: task for name, task in tasks.items() if not task.done()}
                for name, record in list(self._fleet.items()):
                    if name not in tasks and self._is_due(record):
                        task = tasks[name] = asyncio.create_task(self._poll(record))
                        task.add_done_callback(lambda _task: self._changed.set())
                try:
                    async with asyncio.timeout(self._pause_s()):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            await cancel_and_wait(tasks.values())

    def _is_due(self, record: MachineRecord) -> bool:
        if record.state not in SERVING or record.endpoint is None:
            return False
        attempted, at = self._attempts.get(record.machine, (None, 0.0))
        return attempted != (record.generation, record.state) or self._monotonic() - at >= self._interval_s

    def _pause_s(self) -> float:
        """Return the time until the next machine is due."""
        names = {r.machine for r in self._fleet.values() if r.state in SERVING}
        oldest = min((at for name, (_, at) in self._attempts.items() if name in names), default=self._monotonic())
        return max(0.05, min(self._interval_s, oldest + self._interval_s - self._monotonic()))

    async def _poll(self, record: MachineRecord) -> None:
        self._attempts[record.machine] = ((record.generation, record.state), self._monotonic())
        assert record.endpoint is not None, "a machine that is due has an endpoint"
        try:
            async with self._slots:
                await self._wait_for_journal(record)
                at = self._now()
                counters = await self._scraper.read(record.endpoint, record.machine)
                if await self._has_another_engine(record):
                    self._metrics.readings.labels("not_kept").inc()
                    return
                reading = EngineReading(machine=record.machine, generation=record.generation, at=at, counters=counters)
                is_unmanaged = self._is_unmanaged(record.tier)
                await self._store.record_reading(reading, day_of(at), is_unmanaged=is_unmanaged)
        except ScrapeFailed as error:
            await self._record_failure(record, str(error))
        except (BusUnavailable, *DATABASE_ERRORS) as error:
            self._metrics.readings.labels("not_kept").inc()
            log.warning("engine_reading_not_stored", machine=record.machine, reason=describe(error))
        else:
            self._generations[record.machine] = record.generation
            self._metrics.readings.labels("read").inc()

    async def _has_another_engine(self, record: MachineRecord) -> bool:
        """Whether the machine was started again meanwhile, so that the counters may be of its next engine.

        The waker writes a new generation before it starts the engine. The view may not have it yet, the bus has.
        """
        entry = await self._bus.get(topology.FLEET, subjects.machine_key(record.machine))
        try:
            return entry is not None and decode(entry.value, MachineRecord).generation != record.generation
        except Unreadable:
            return False  # the view has reported it

    async def _record_failure(self, record: MachineRecord, reason: str) -> None:
        self._metrics.readings.labels("failed").inc()
        log.warning("engine_scrape_failed", machine=record.machine, reason=reason)
        try:
            await self._store.record_failure(record.machine, day_of(self._now()), reason)
        except DATABASE_ERRORS as error:
            log.warning("engine_failure_not_stored", machine=record.machine, reason=describe(error))

    async def _wait_for_journal(self, record: MachineRecord) -> None:
        """Before a generation's first reading, wait until the journal's backlog is recorded."""
        if self._generations.get(record.machine) == record.generation:
            return
        try:
            async with asyncio.timeout(JOURNAL_TIMEOUT_S):
                while await self._bus.backlog(topology.AUDIT):  # noqa: ASYNC110 - the server sends no event for it
                    await asyncio.sleep(JOURNAL_POLL_S)
        except (BusUnavailable, TimeoutError) as error:
            log.debug("engine_read_before_its_journal", machine=record.machine, reason=describe(error))
