"""Fetches a configured source's deliveries by itself: looks, takes what has changed, says when it last could."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from services.billing.adapters.places import Place, place
from services.billing.core.manifests import Plan
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


@dataclass(frozen=True)
class _Imported:
    """What a delivery was when it was imported."""

    marks: tuple[str, ...]
    files: tuple[str, ...]
    """Their SHA-256."""


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
        self._imported: dict[tuple[str, ...], _Imported] = {}
        """By the names of a delivery's files."""
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
        """Import each delivery that has changed; returns why the first one was not imported that could not be."""
        source = self._source
        lies = place(source.url, region=source.region, endpoint_url=source.endpoint_url)
        deliveries = {one.plan.wanted or one.plan.files: one for one in await found(lies)}
        self._imported = {key: value for key, value in self._imported.items() if key in deliveries}
        faults: list[str] = []
        for key, delivery in deliveries.items():
            imported = self._imported.get(key)
            if imported is not None and imported.marks == delivery.marks:
                continue
            try:
                faults += await self._import(lies, delivery.plan, key, delivery.marks)
            except BusUnavailable:
                raise
            except Exception as error:
                log.exception("delivery_failed", source=source.name, files=delivery.plan.files[:SHOWN_FILES])
                faults.append(told(error))
        return faults[0] if faults else None

    async def _import(self, lies: Place, plan: Plan, key: tuple[str, ...], marks: tuple[str, ...]) -> list[str]:
        """Import one delivery; returns why it was refused."""
        source = self._source
        beside = [sha for other, imported in self._imported.items() if other != key for sha in imported.files]
        request = await sent(self._bus, lies, plan, source.name, parts=source.parts, beside=beside)
        answer = await self._imports.take(request)
        if isinstance(answer, Refused):
            log.warning("refused", source=source.name, reason=answer.reason)
            return [answer.reason]
        for refusal in answer.refusals:
            log.warning("refused", source=source.name, file=refusal.file, line=refusal.line, reason=refusal.reason)
        if not answer.refusals:
            self._imported[key] = _Imported(marks, tuple(file.sha256 for file in request.files))
        return [f"{refusal.file}: {refusal.reason}" for refusal in answer.refusals]
