"""Fetches the deliveries of a configured source: polls it, imports what has changed, and reports its state."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from services.billing.app.deliveries import list_deliveries, upload_delivery
from services.billing.app.invoice_importer import InvoiceImporter
from services.billing.core.invoice_files.manifests import DeliveryPlan
from services.billing.metrics import Metrics
from services.billing.ports import FileSource
from shared.bus.ports import Bus
from shared.config.invoices import InvoiceSource
from shared.database import describe
from shared.errors import BusUnavailable, Rejected
from shared.messages.invoices import RowError, SourceState
from shared.messages.meter import ErrorReply

log = structlog.get_logger()

SHOWN_FILES = 3
"""Files of a delivery that the log names."""
SHOWN_REASONS = 3
"""Reasons of a source that the log and the operator see; an import by hand shows all of them."""
MIN_RETRY_PAUSE_S = 10.0
"""Seconds after the first failure. Each further failure doubles it, up to the usual interval."""


@dataclass(frozen=True)
class _Imported:
    """A delivery as it was imported."""

    versions: tuple[str, ...]
    files: tuple[str, ...]
    """The SHA-256 of each file."""


@dataclass(frozen=True)
class _Refused:
    """A delivery that was rejected, and why."""

    versions: tuple[str, ...]
    reasons: tuple[str, ...]
    by_content: bool
    """Another try is useless until the delivery changes."""


_Files = tuple[str, ...]
"""The names of a delivery's files; they identify it between polls."""


class InvoiceFetcher:
    """Fetches one source."""

    def __init__(
        self,
        bus: Bus,
        source: InvoiceSource,
        open_source: Callable[[InvoiceSource], FileSource],
        imports: InvoiceImporter,
        metrics: Metrics,
        *,
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._source = source
        self._open_source = open_source
        self._imports = imports
        self._metrics = metrics
        self._now = now
        self._imported: dict[_Files, _Imported] = {}
        self._refused: dict[_Files, _Refused] = {}
        self._listing_error: str | None = None
        """Why the source's files cannot be listed."""
        self._failures = 0
        self._first_at: float | None = None
        self._polled_at: float | None = None
        self._good_at: float | None = None
        self._refused_at: float | None = None

    @property
    def name(self) -> str:
        return f"fetching invoices of {self._source.name}"

    @property
    def state(self) -> SourceState:
        """The state of the source since this process began to poll it."""
        return SourceState(
            name=self._source.name,
            url=self._source.url,
            looked_at=self._polled_at,
            good_at=self._good_at,
            refused_at=self._refused_at,
            reasons=self._faults[:SHOWN_REASONS],
            deliveries=len(self._imported),
        )

    @property
    def _faults(self) -> tuple[str, ...]:
        reasons = [reason for refused in self._refused.values() for reason in refused.reasons]
        return ((self._listing_error,) if self._listing_error is not None else ()) + tuple(reasons)

    async def wait(self) -> None:
        """Sleep until the next poll is due."""
        retry = MIN_RETRY_PAUSE_S * 2 ** min(self._failures - 1, 30) if self._failures else self._source.every
        await asyncio.sleep(min(self._source.every, retry))

    async def poll(self) -> str | None:
        """Import every delivery that has changed. Returns why one could not be imported; raises `BusUnavailable`."""
        self._polled_at = self._now()
        await self._import_changed()
        is_good = not self._faults
        soon = self._listing_error is not None or any(not refused.by_content for refused in self._refused.values())
        self._failures = self._failures + 1 if soon else 0
        self._first_at = self._first_at or self._polled_at
        if is_good:
            self._good_at = self._polled_at
        self._metrics.fetches.labels(self._source.name, "good" if is_good else "failed").inc()
        self._metrics.delivered_at.labels(self._source.name).set(self._good_at or self._first_at)
        return None if is_good else self._faults[0]

    async def _import_changed(self) -> None:
        """Import each delivery that has changed, unless it was rejected as it is."""
        try:
            file_source = self._open_source(self._source)
            deliveries = {one.plan.listed or one.plan.files: one for one in await list_deliveries(file_source)}
        except BusUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this source alone
            self._record_listing_error(error)
            return
        self._listing_error = None
        self._imported = {key: value for key, value in self._imported.items() if key in deliveries}
        self._refused = {key: value for key, value in self._refused.items() if key in deliveries}
        for key, delivery in deliveries.items():
            imported, refused = self._imported.get(key), self._refused.get(key)
            is_known = imported is not None and imported.versions == delivery.versions
            if is_known or (refused is not None and refused.by_content and refused.versions == delivery.versions):
                continue
            try:
                await self._import(file_source, delivery.plan, key, delivery.versions)
            except BusUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this delivery alone
                self._record_rejection(key, _Refused(delivery.versions, (_reason(error),), by_content=False), error)

    async def _import(
        self, file_source: FileSource, plan: DeliveryPlan, key: _Files, versions: tuple[str, ...]
    ) -> None:
        beside = [sha for other, imported in self._imported.items() if other != key for sha in imported.files]
        parts, rounds = self._source.parts, self._source.round
        request = await upload_delivery(
            self._bus, file_source, plan, self._source.name, parts=parts, rounds=rounds, beside=beside
        )
        answer = await self._imports.import_delivery(request)
        if isinstance(answer, ErrorReply):
            self._record_rejection(key, _Refused(versions, (answer.reason,), by_content=False))
        elif answer.refusals:
            self._record_rejection(
                key, _Refused(versions, tuple(map(_format_row_error, answer.refusals)), by_content=True)
            )
        else:
            self._refused.pop(key, None)
            self._imported[key] = _Imported(versions, tuple(file.sha256 for file in request.files))

    def _record_rejection(self, key: _Files, refused: _Refused, error: Exception | None = None) -> None:
        """Remember why a delivery was rejected; log it if it is new."""
        if self._refused.get(key) != refused:
            self._refused_at = self._polled_at
            log.warning(
                "invoice_delivery_refused",
                source=self._source.name,
                files=key[:SHOWN_FILES],
                faults=len(refused.reasons),
                reasons=refused.reasons[:SHOWN_REASONS],
                exc_info=_unexpected(error),
            )
        self._refused[key] = refused

    def _record_listing_error(self, error: Exception) -> None:
        """Remember why the source cannot be listed; log it if it is new."""
        reason = _reason(error)
        if self._listing_error != reason:
            self._refused_at = self._polled_at
            name = self._source.name
            log.warning("invoice_source_unreadable", source=name, reason=reason, exc_info=_unexpected(error))
        self._listing_error = reason


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Rejected) else describe(error)


def _unexpected(error: Exception | None) -> Exception | None:
    """Return the error if its traceback is worth logging."""
    return None if isinstance(error, Rejected) else error


def _format_row_error(refusal: RowError) -> str:
    at = f"{refusal.file}:{refusal.line}" if refusal.line else refusal.file
    return f"{at}: {refusal.column}: {refusal.reason}" if refusal.column else f"{at}: {refusal.reason}"
