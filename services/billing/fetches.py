"""Fetches a configured source's deliveries by itself: looks, takes what has changed, says when it last could."""

import asyncio
from collections.abc import Callable

import structlog

from services.billing.adapters.places import place
from services.billing.deliveries import found, sent
from services.billing.imports import Imports
from services.billing.metrics import Metrics
from shared.bus.ports import Bus
from shared.config import InvoiceSource
from shared.database import told
from shared.errors import BusUnavailable, Refusal
from shared.messages.meter import Refused

log = structlog.get_logger()

SHOWN_FILES = 3
"""Of a delivery, in the log."""
LEAST_PAUSE = 10.0
"""After the first failure; each further one doubles it, up to the usual pause."""


class Fetches:
    """Of one source."""

    def __init__(
        self, bus: Bus, source: InvoiceSource, imports: Imports, metrics: Metrics, *, now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._source = source
        self._imports = imports
        self._metrics = metrics
        self._now = now
        self._taken: dict[tuple[str, ...], tuple[str, ...]] = {}
        """The marks with which a delivery was imported, by its files' names."""
        self._failures = 0
        self._good_at: float | None = None

    @property
    def name(self) -> str:
        return f"fetching invoices of {self._source.name}"

    async def wait(self) -> None:
        """Until the next look is due."""
        retry = LEAST_PAUSE * 2 ** min(self._failures - 1, 30) if self._failures else self._source.every
        await asyncio.sleep(min(self._source.every, retry))

    async def look(self) -> str | None:
        """Take every delivery that has changed. Returns why one could not be; `BusUnavailable`: try again."""
        try:
            fault = await self._look()
        except Refusal as error:
            log.warning("invoices cannot be fetched", source=self._source.name, reason=str(error))
            fault = str(error)
        except BusUnavailable:
            raise
        except Exception as error:
            log.exception("fetch_failed", source=self._source.name)
            fault = told(error)
        good = fault is None
        self._failures = 0 if good else self._failures + 1
        if good or self._good_at is None:
            self._good_at = self._now()
        self._metrics.fetches.labels(self._source.name, "good" if good else "failed").inc()
        self._metrics.delivered_at.labels(self._source.name).set(self._good_at)
        return fault

    async def _look(self) -> str | None:
        """Each delivery by itself; returns why the first one was not taken that could not be."""
        source = self._source
        where = place(source.url, region=source.region, endpoint_url=source.endpoint_url)
        faults: list[str] = []
        for delivery in await found(where):
            if self._taken.get(delivery.plan.wanted or delivery.plan.files) == delivery.marks:
                continue
            try:
                answer = await self._imports.take(await sent(self._bus, where, delivery.plan, source.name))
            except BusUnavailable:
                raise
            except Exception as error:
                log.exception("delivery_failed", source=source.name, files=delivery.plan.files[:SHOWN_FILES])
                faults.append(told(error))
                continue
            if isinstance(answer, Refused):
                log.warning("refused", source=source.name, reason=answer.reason)
                faults.append(answer.reason)
                continue
            for refusal in answer.refusals:
                log.warning("refused", source=source.name, file=refusal.file, line=refusal.line, reason=refusal.reason)
                faults.append(f"{refusal.file}: {refusal.reason}")
            if not answer.refusals:
                self._taken[delivery.plan.wanted or delivery.plan.files] = delivery.marks
        return faults[0] if faults else None
