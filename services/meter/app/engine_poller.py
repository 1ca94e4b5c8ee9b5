"""Reads the counters of every machine's engine: at a steady pace, and at once when it is ready and when it drains.

A machine drains when nothing is in flight, so that its last reading has all that it did, unless it died.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from services.meter.adapters.engine_store import SqlEngineStore
from services.meter.adapters.scraper import MetricsScraper, ScrapeFailed
from services.meter.audit_metrics import AuditMetrics
from services.meter.core.engine_readings import EngineReading, day_of
from shared.bus import topology
from shared.bus.ports import Bus
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable
from shared.messages.waker import MachineRecord
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

AT_ONCE = 16
SERVING = ("ready", "draining")
JOURNAL_SECONDS = 2.0
"""For the journal's word on how a new generation began, before its first reading."""
JOURNAL_LOOK_SECONDS = 0.05


class EnginePoller:
    """`run` for ever. `changed` is set after each change of the fleet."""

    def __init__(
        self,
        bus: Bus,
        fleet: Mapping[str, MachineRecord],
        book: SqlEngineStore,
        scraper: MetricsScraper,
        metrics: AuditMetrics,
        *,
        changed: asyncio.Event,
        interval: float,
        stays: Callable[[str], bool],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._fleet = fleet
        self._book = book
        self._scraper = scraper
        self._metrics = metrics
        self._interval = interval
        self._stays = stays
        self._now = now
        self._monotonic = monotonic
        self._changed = changed
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tried: dict[str, tuple[tuple[int, str], float]] = {}
        """By machine: its generation and state at the last look, and when that was."""
        self._generations: dict[str, int] = {}
        """Of which the book has a reading."""

    async def run(self) -> None:
        under_way: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                under_way = {name: task for name, task in under_way.items() if not task.done()}
                for name, record in list(self._fleet.items()):
                    if name not in under_way and self._due(record):
                        task = under_way[name] = asyncio.create_task(self._read(record))
                        task.add_done_callback(lambda _task: self._changed.set())
                try:
                    async with asyncio.timeout(self._pause()):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            await cancel_and_wait(under_way.values())

    def _due(self, record: MachineRecord) -> bool:
        if record.state not in SERVING or record.endpoint is None:
            return False
        seen, at = self._tried.get(record.machine, (None, 0.0))
        return seen != (record.generation, record.state) or self._monotonic() - at >= self._interval

    def _pause(self) -> float:
        """Until the next machine is due."""
        names = {r.machine for r in self._fleet.values() if r.state in SERVING}
        oldest = min((at for name, (_, at) in self._tried.items() if name in names), default=self._monotonic())
        return max(0.05, min(self._interval, oldest + self._interval - self._monotonic()))

    async def _read(self, record: MachineRecord) -> None:
        self._tried[record.machine] = ((record.generation, record.state), self._monotonic())
        assert record.endpoint is not None, "who is due has one"
        try:
            async with self._turns:
                await self._heard_of(record)
                at = self._now()
                counters = await self._scraper.read(record.endpoint, record.machine)
                reading = EngineReading(machine=record.machine, generation=record.generation, at=at, counters=counters)
                await self._book.read(reading, day_of(at), stays=self._stays(record.tier))
        except ScrapeFailed as error:
            await self._failed(record, str(error))
        except DATABASE_ERRORS as error:
            self._metrics.readings.labels("not_kept").inc()
            log.warning("a reading is not kept", machine=record.machine, reason=describe(error))
        else:
            self._generations[record.machine] = record.generation
            self._metrics.readings.labels("read").inc()

    async def _failed(self, record: MachineRecord, reason: str) -> None:
        self._metrics.readings.labels("failed").inc()
        log.warning("an engine's counters cannot be read", machine=record.machine, reason=reason)
        try:
            await self._book.failed(record.machine, day_of(self._now()), reason)
        except DATABASE_ERRORS as error:
            log.warning("a failed reading is not kept", machine=record.machine, reason=describe(error))

    async def _heard_of(self, record: MachineRecord) -> None:
        """Before a generation's first reading the journal is read up to where it stands."""
        if self._generations.get(record.machine) == record.generation:
            return
        try:
            async with asyncio.timeout(JOURNAL_SECONDS):
                while await self._bus.backlog(topology.AUDIT):  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(JOURNAL_LOOK_SECONDS)
        except (BusUnavailable, TimeoutError) as error:
            log.debug("reading an engine before its journal", machine=record.machine, reason=describe(error))
