"""Records payloads in the ledger, whoever read them, and counts what became of them."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from services.meter.adapters.ledger import Ledger, Recorded
from services.meter.core.batch import read
from services.meter.metrics import Metrics
from services.meter.teller import Teller
from shared.database import AWAY

log = structlog.get_logger()


class Recorder:
    """The only way of a usage event into the ledger. `keep`: seconds after which an event is too old to be counted."""

    def __init__(
        self, ledger: Ledger, teller: Teller, metrics: Metrics, *, keep: float, now: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._teller = teller
        self._metrics = metrics
        self._keep = keep
        self._now = now
        self._telling = asyncio.Lock()

    async def record(self, payloads: Sequence[bytes]) -> Recorded:
        """Commit one batch. Raises one of `shared.database.AWAY`: nothing of it is written."""
        try:
            with self._metrics.batch_seconds.time():
                recorded = await self._ledger.record(read(payloads, self._now(), keep=self._keep))
        except AWAY:
            self._metrics.database_faults.inc()
            raise
        self._count(recorded)
        return recorded

    async def tell(self, recorded: Recorded) -> None:
        """Confirm a batch to the gateways. `BusUnavailable`, or one of `shared.database.AWAY`: the next one does."""
        async with self._telling:
            await self._teller.tell(recorded)

    def _count(self, recorded: Recorded) -> None:
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
