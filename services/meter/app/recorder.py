"""Records payloads in the ledger, wherever they were read, and counts what became of them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import structlog

from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.core.batch import Batch, parse_batch
from services.meter.core.record_result import RecordResult
from services.meter.core.recount import QuarantinedMessage, parse_quarantined
from services.meter.metrics import Metrics
from services.meter.ports import Ledger
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable
from shared.messages.gateway import UsageEvent

log = structlog.get_logger()


class Recorder:
    """The only way for a usage event into the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        publisher: ProgressPublisher,
        metrics: Metrics,
        vet: Callable[[Batch], Awaitable[Batch]],
        *,
        keep_events_s: float,
        now: Callable[[], float],
        on_counted: Callable[[Collection[UsageEvent]], None] = lambda _: None,
    ) -> None:
        """`vet` quarantines events of unknown keys and sources. `keep_events_s`: older events are not counted.

        `on_counted` gets the events of each committed batch that the ledger did not have; it returns at once.
        """
        self._ledger = ledger
        self._publisher = publisher
        self._metrics = metrics
        self._vet = vet
        self._keep_events_s = keep_events_s
        self._now = now
        self._on_counted = on_counted
        self._publish_lock = asyncio.Lock()

    async def record(self, payloads: Sequence[bytes]) -> RecordResult:
        """Commit one batch. Raises `BusUnavailable` or one of `DATABASE_ERRORS`: nothing of it is written."""
        return await self._record(parse_batch(payloads, self._now(), keep_s=self._keep_events_s))

    async def record_quarantined(self, messages: Sequence[QuarantinedMessage]) -> RecordResult:
        """Count those messages from quarantine that can be counted now. Raises as `record` does."""
        batch = parse_quarantined(messages, self._now(), keep_s=self._keep_events_s)
        return await self._record(batch, from_quarantine=True)

    async def publish_progress(self, result: RecordResult) -> None:
        """Confirm a batch to the gateways. If the bus or the database is down, the next call makes up for it."""
        try:
            async with self._publish_lock:
                await self._publisher.publish(result)
        except (BusUnavailable, *DATABASE_ERRORS) as error:
            log.warning("progress_publish_failed", reason=describe(error), consequence="the next batch publishes it")

    async def _record(self, batch: Batch, *, from_quarantine: bool = False) -> RecordResult:
        try:
            batch = await self._vet(batch)
            with self._metrics.batch_seconds.time():
                result = await self._ledger.record(batch, from_quarantine=from_quarantine)
        except DATABASE_ERRORS:
            self._metrics.database_faults.inc()
            raise
        self._count(result)
        self._on_counted(result.events)
        return result

    def _count(self, result: RecordResult) -> None:
        self._metrics.messages.labels("counted").inc(result.counted)
        self._metrics.messages.labels("repeated").inc(result.repeated)
        if result.conflicts:
            self._metrics.messages.labels("conflict").inc(result.conflicts)
            log.error("event_conflicts_stored", conflicts=result.conflicts, reason="another payload under a known id")
        for kind, number in result.quarantined.items():
            self._metrics.messages.labels("quarantined").inc(number)
            self._metrics.quarantined.labels(kind).inc(number)
            log.error("messages_quarantined", kind=kind, number=number)
        for (what, name), unknown in result.unknown.items():
            self._metrics.unknown.labels(what).inc(unknown.events)
            log.warning("unknown_name_counted", what=what, name=name, events=unknown.events)
