"""Files read as billing reads them, with all of their charges in hand."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from services.billing.adapters.invoice_reader import ROW, DuckdbInvoiceReader
from services.billing.core.cost_row import CostRow, SnapshotKey
from services.billing.core.invoice_files.delivery import Snapshot
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.invoice_files.schema import AMOUNT_FIELDS
from shared.messages.invoices import DeliveredFile, RowError

TERMS = ImportSettings(source="cloud")


@dataclass(frozen=True)
class ReadResult:
    charges: Mapping[SnapshotKey, tuple[CostRow, ...]]
    refusals: tuple[RowError, ...]
    snapshots: tuple[Snapshot, ...]

    @property
    def rows(self) -> tuple[CostRow, ...]:
        """Those of all snapshots."""
        return tuple(row for rows in self.charges.values() for row in rows)


def read(
    *files: bytes | Path, name: str = "bill.csv", terms: ImportSettings = TERMS, parts: bool = False
) -> ReadResult:
    """One delivery; files after the first one are named by their number. `parts` as of `Reading.read`."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        paths = [_placed(file, Path(directory) / f"{number}") for number, file in enumerate(files)]
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        named = [DeliveredFile(name=name if not n else str(n), sha256=sha) for n, sha in enumerate(hashes)]
        reading = DuckdbInvoiceReader(work, terms)
        try:
            reading.read(list(zip(named, paths, strict=True)), parts=parts)
            charges: dict[SnapshotKey, list[CostRow]] = {}
            for snapshot in reading.snapshots:
                rows = charges.setdefault(snapshot.key, [])
                rows += (_row(values) for batch in reading.rows(snapshot) for values in batch)
            whole = {key: tuple(rows) for key, rows in charges.items()}
            return ReadResult(whole, tuple(reading.refusals), reading.snapshots)
        finally:
            reading.close()


def _placed(file: bytes | Path, at: Path) -> Path:
    at.write_bytes(file.read_bytes() if isinstance(file, Path) else file)
    return at


def _row(values: tuple[Any, ...]) -> CostRow:
    row = dict(zip(ROW, values, strict=True))
    for name in (*AMOUNT_FIELDS, "consumed_quantity"):
        row[name] = None if row[name] is None else Decimal(row[name])
    return CostRow(**row)
