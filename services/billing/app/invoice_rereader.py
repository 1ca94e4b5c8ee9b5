"""Reads invoices again after their import settings have changed: the reader, our resources or exchange rates."""

from collections.abc import Mapping

import structlog

from services.billing.app.invoice_importer import InvoiceImporter
from services.billing.core.invoice_files.import_settings import READER_VERSION
from services.billing.ports import InvoiceStore

log = structlog.get_logger()

SHOWN_FILES = 3
"""Files of a delivery that the log names."""


class InvoiceRereader:
    """Rereads deliveries. One that cannot be read again stays as it is, and its reason is listed."""

    def __init__(self, store: InvoiceStore, imports: InvoiceImporter) -> None:
        self._store = store
        self._imports = imports
        self._faults: dict[int, str] = {}
        self._done = False

    @property
    def faults(self) -> Mapping[int, str]:
        """Why deliveries that count could not be read again, by their number."""
        return dict(self._faults)

    @property
    def done(self) -> bool:
        """Whether every delivery was tried. Until then figures may mix old and new settings."""
        return self._done

    async def reread_stale(self) -> None:
        """Reread what counts with the present settings. Raises `BusUnavailable` or what `DATABASE_ERRORS` lists."""
        stale_deliveries = await self._store.list_stale(await self._imports.settings_digest())
        self._faults = {one.number: self._faults[one.number] for one in stale_deliveries if one.number in self._faults}
        for stale in stale_deliveries:
            fault = await self._imports.reread(stale)
            files = [file.name for file in stale.files[:SHOWN_FILES]]
            if fault is None:
                self._faults.pop(stale.number, None)
                log.info("invoices_reread", source=stale.source, files=files, reader=READER_VERSION)
            elif self._faults.get(stale.number) != fault:
                self._faults[stale.number] = fault
                log.warning("invoices_not_reread", source=stale.source, files=files, reason=fault)
        self._done = True
