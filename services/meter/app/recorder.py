"""Records payloads in the ledger, whoever read them, and counts what became of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from services.meter.adapters.ledger import RecordResult, SqlLedger
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.core.batch import Batch, parse_batch
from services.meter.core.recount import QuarantinedMessage, parse_quarantined
from services.meter.metrics import Metrics
from shared.database import DATABASE_ERRORS

log = structlog.get_logger()


class Recorder:
    """The only way of a usage event into the ledger. `keep`: seconds after which an event is too old to be counted."""

    def __init__(
        self,
        ledger: SqlLedger,
        publisher: ProgressPublisher,
        metrics: Metrics,
        vet: Callable[[Batch], Awaitable[Batch]],
        *,
        keep: float,
        now: Callable[[], float],
    ) -> None:
        """`vet` takes out of a batch what nobody may have sent."""
        self._ledger = ledger
        self._publisher = publisher
        self._metrics = metrics
        self._vet = vet
        self._keep = keep
        self._now = now
        self._telling = asyncio.Lock()

    async def record(self, payloads: Sequence[bytes]) -> RecordResult:
        """Commit one batch. Raises `BusUnavailable` or one of `shared.database.AWAY`: nothing of it is written."""
        return await self._record(parse_batch(payloads, self._now(), keep=self._keep))

    async def record_again(self, held: Sequence[QuarantinedMessage]) -> RecordResult:
        """The same of messages in quarantine: those that can be counted now are."""
        return await self._record(parse_quarantined(held, self._now(), keep=self._keep), from_quarantine=True)

    async def _record(self, batch: Batch, *, from_quarantine: bool = False) -> RecordResult:
        try:
            batch = await self._vet(batch)
            with self._metrics.batch_seconds.time():
                recorded = await self._ledger.record(batch, from_quarantine=from_quarantine)
        except DATABASE_ERRORS:
            self._metrics.database_faults.inc()
            raise
        self._count(recorded)
        return recorded

    async def tell(self, recorded: RecordResult) -> None:
        """Confirm a batch to the gateways. `BusUnavailable`, or one of `shared.database.AWAY`: the next one does."""
        async with self._telling:
            await self._publisher.tell(recorded)

    def _count(self, recorded: RecordResult) -> None:
        self._metrics.messages.labels("counted").inc(recorded.counted)
        self._metrics.messages.labels("repeated").inc(recorded.repeated)
        if recorded.conflicts:
            self._metrics.messages.labels("conflict").inc(recorded.conflicts)
            log.error("other payloads under known ids: the first ones count", conflicts=recorded.conflicts)
        for kind, number in recorded.quarantined.items():
            self._metrics.messages.labels("quarantined").inc(number)
            self._metrics.quarantined.labels(kind).inc(number)
            log.error("messages that cannot be counted are in quarantine", kind=kind, quarantined=number)
        for (what, name), unknown in recorded.unknown.items():
            self._metrics.unknown.labels(what).inc(unknown.events)
            log.warning("counted under a name that nobody knows", what=what, name=name, events=unknown.events)
