"""Reads a delivery's files with DuckDB: validates all of them, then sums charges that no figure can tell apart.

The data lies in one directory that is removed afterwards. Memory is bounded; what exceeds it goes to disk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from services.billing.adapters.charge_database import connect, is_too_large
from services.billing.adapters.file_reader import FileReader
from services.billing.adapters.row_errors import MAX_ROW_ERRORS, RowErrors
from services.billing.core.cost_row import CostRow, SnapshotKey
from services.billing.core.invoice_files import duplicate_charges, merged_charges, schema
from services.billing.core.invoice_files.delivery import Snapshot
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.invoice_files.invalid_files import TOO_LARGE
from services.billing.core.utc_time import format_time
from services.billing.ports import Interrupted, OnProgress
from shared.errors import Rejected
from shared.messages.invoices import DeliveredFile, ImportStep, RowError

BATCH = 5_000
"""Charges in one batch of `rows`."""

MAX_BILLS = 1_000
"""Invoices of a delivery, and accounts and months without one: each is listed, and the bus carries a list of 1 MiB."""
MAX_NAME = 500
"""Characters of an issuer, an account or an invoice's number, which are in each of those lists."""

ROW = tuple(field.name for field in fields(CostRow) if field.name != "arrived")
"""The fields of a charge in the database. Its time of arrival is the snapshot's."""
_KEY = ", ".join(schema.SNAPSHOT_KEY)


def _ignore_progress(_step: ImportStep, _rows: int, _share: float | None) -> None:
    pass


@dataclass
class DuckdbInvoiceReader:
    """Call `read` first; if any row is rejected there are no snapshots. `interrupt` may be called from any thread."""

    directory: Path
    """Used by this reader alone; the files lie in it."""
    terms: ImportSettings
    on_progress: OnProgress = _ignore_progress
    """Called from the reading's thread with the step, the rows and how much of the step is done."""
    snapshots: tuple[Snapshot, ...] = ()
    _refusals: RowErrors = field(default_factory=RowErrors)
    _stopped: bool = False

    def __post_init__(self) -> None:
        self._db = connect(self.directory, self.terms.mine)

    @property
    def refusals(self) -> Sequence[RowError]:
        return self._refusals.errors

    def close(self) -> None:
        self._db.close()

    def interrupt(self) -> None:
        self._stopped = True
        self._db.interrupt()

    def read(self, files: Sequence[tuple[DeliveredFile, Path]], *, parts: bool = False) -> None:
        """Read the files; `refusals` then has their first hundred faults. `parts`: they are parts of one snapshot."""
        charges: dict[int, str] = {}
        sizes = [max(1, path.stat().st_size) for _, path in files]
        at = rows_before = rows = 0

        def on_progress(rows_of_file: int, bytes_of_file: int) -> bool:
            nonlocal rows
            rows = rows_before + rows_of_file
            self.on_progress("reading", rows, (sum(sizes[:at]) + bytes_of_file) / sum(sizes))
            return self._stopped

        reader = FileReader(self._db, self.directory, self.terms, self._refusals, on_progress)
        for at, (file, path) in enumerate(files):
            number, rows_before = at, rows
            on_progress(0, 0)
            made = reader.read(file.name, path, number)
            if made is not None:
                charges[number] = f"SELECT * REPLACE (line + {number << 40} AS line) FROM ({made})"
        if self._stopped:
            raise Interrupted
        self.on_progress("summing", rows, None)
        named = [file for file, _ in files]
        with self._refusals.recording(named[0].name):
            if not self.refusals:
                self._compare(named, charges, parts=parts)
            if not self.refusals:
                every = " UNION ALL ".join(charges.values())
                self._sum_up(merged_charges.without_split_charges_sql(every) if reader.splits else every, named)

    def _compare(self, files: Sequence[DeliveredFile], charges: Mapping[int, str], *, parts: bool) -> None:
        """Refuse files that repeat each other, unless they are `parts` of one snapshot."""
        if len(files) == 1:
            return
        counted = [
            duplicate_charges.count_charges_sql(f"({sql})", number, parts=parts) for number, sql in charges.items()
        ]
        self._db.execute(f"CREATE TABLE seen AS {' UNION ALL '.join(counted)}")
        reported: set[frozenset[int]] = set()
        for number, *values, shared, rows in self._db.execute(
            duplicate_charges.duplicate_files_sql(MAX_ROW_ERRORS)
        ).fetchall():
            key = SnapshotKey(*values)
            ((other,),) = self._db.execute(
                duplicate_charges.DUPLICATED_FILE_SQL, {"file": number, **asdict(key)}
            ).fetchall()
            pair = frozenset((number, other))
            if pair not in reported:
                self._refusals.add(files[number].name, 0, "", _repeats(key, shared, rows, files[other].name))
            reported.add(pair)

    def _sum_up(self, all_charges: str, files: Sequence[DeliveredFile]) -> None:
        self._db.execute(f"CREATE TABLE charges AS {merged_charges.merge_charges_sql(all_charges, self.terms.rates)}")
        self.snapshots = self._snapshots(files)
        if not self.snapshots:
            self._refusals.add(files[0].name, 0, "", "no rows: an export without charges says nothing; leave it out")
        bills = sum(max(1, len(snapshot.invoices)) for snapshot in self.snapshots)
        if bills > MAX_BILLS:
            reason = f"{bills:,} accounts, months or invoices, and at most {MAX_BILLS:,} are read at once: import fewer"
            self._refusals.add(files[0].name, 0, "", reason)
        for snapshot in self.snapshots:
            for name in (snapshot.key.issuer, snapshot.key.account, *snapshot.invoices):
                if len(name) > MAX_NAME:
                    reason = f"a name of {len(name):,} characters ({name[:20]}…): at most {MAX_NAME} are read"
                    self._refusals.add(snapshot.files[0].name, 0, "", reason)

    def rows(self, snapshot: Snapshot) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the snapshot's charges in batches, ordered by time: the fields of `ROW`, amounts as text."""
        key = snapshot.key
        texts = {name: f"CAST({name} AS VARCHAR)" for name in schema.AMOUNT_FIELDS}
        try:
            charges = self._db.execute(
                f"SELECT {', '.join(texts.get(name, name) for name in ROW)} FROM charges "
                f"WHERE ({_KEY}, currency) = (?, ?, ?, ?, ?) ORDER BY ALL",
                [key.issuer, key.account, key.period_start, key.period_end, snapshot.currency],
            )
            while batch := charges.fetchmany(BATCH):
                if self._stopped:
                    raise Interrupted
                yield batch
        except duckdb.Error as error:
            if is_too_large(error):
                raise Rejected(TOO_LARGE) from error
            raise

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of SQL over the table `charges`, which exists after `read`."""
        try:
            return self._db.execute(sql).fetchall()
        except duckdb.InterruptException as error:
            raise Interrupted from error

    def _snapshots(self, files: Sequence[DeliveredFile]) -> tuple[Snapshot, ...]:
        sums_by_invoice = self._db.execute(
            f"SELECT {_KEY}, currency, coalesce(invoice_id, ''), sum(rows), sum(billed), sum(residue) "
            "FROM charges GROUP BY ALL"
        ).fetchall()
        origins: dict[SnapshotKey, list[DeliveredFile]] = {}
        seen = "seen" if len(files) > 1 else "(SELECT 0 AS file, * FROM charges)"
        for number, *key in self._db.execute(f"SELECT DISTINCT file, {_KEY} FROM {seen} ORDER BY file").fetchall():
            origins.setdefault(SnapshotKey(*key), []).append(files[number])
        sums: dict[tuple[SnapshotKey, str], list[tuple[str, int, Decimal, Decimal | None]]] = {}
        for issuer, account, start, end, currency, invoice, rows, billed, residue in sums_by_invoice:
            snapshot = SnapshotKey(issuer, account, start, end), currency
            sums.setdefault(snapshot, []).append((invoice, int(rows), billed, residue))
        return tuple(
            Snapshot(
                key=key,
                currency=currency,
                rows=sum(rows for _, rows, *_ in parts),
                billed=sum((billed for _, _, billed, _ in parts), Decimal(0)),
                residue=_sum([residue for *_, residue in parts if residue is not None]),
                invoices={invoice: billed for invoice, _, billed, _ in sorted(parts)},
                files=tuple(origins[key]),
            )
            for (key, currency), parts in sorted(sums.items())
        )


def _sum(residues: Sequence[Decimal]) -> Decimal | None:
    return sum(residues, Decimal(0)).normalize() if residues else None


def _repeats(key: SnapshotKey, shared: int, rows: int, other: str) -> str:
    period = f"{format_time(key.period_start)} to {format_time(key.period_end)}"
    return (
        f"{shared:,} of its {rows:,} charges of {key.issuer}, account {key.account}, {period} "
        f"are also in {other}: the files are two snapshots of one period; import the newest one "
        "alone, or pass --parts if they are parts of one snapshot"
    )
