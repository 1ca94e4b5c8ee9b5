"""Reads a delivery's files with DuckDB: judged whole, then summed into as many charges as the figures can tell apart.

All of it lies in one directory that is gone afterwards; the memory is bounded, what exceeds it is on the disk.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from services.billing.adapters import csv_lines
from services.billing.core import forms, overlap
from services.billing.core.cells import literal, name_of
from services.billing.core.cur import CUR
from services.billing.core.days import written
from services.billing.core.focus import FOCUS, CostRow, SnapshotKey, simple
from services.billing.core.forms import Form, Rate
from services.billing.core.macros import SCRIPT
from shared.messages.invoices import DeliveredFile, Refusal

READER = 2
"""Raised when this module reads the same files otherwise: then what counts is read again."""
MAX_REFUSALS = 100
MEMORY = "1GB"
DISK = "64GB"
BATCH = 5_000
"""Charges handed on at a time."""
PARQUET = b"PAR1"
ZIP = b"PK\x03\x04"

ROW = tuple(field.name for field in fields(CostRow) if field.name != "arrived")
"""What the books keep of a charge. When it arrived, its snapshot says."""
_KEY = ", ".join(forms.KEY)


class Interrupted(Exception):
    """Somebody called `interrupt`."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What reading depends on besides the files."""

    source: str
    mine: frozenset[str] = frozenset()
    """The resources of configured machines: their charges stay as they were delivered."""
    rates: tuple[Rate, ...] = ()

    @property
    def digest(self) -> str:
        told = [READER, sorted(self.mine), [[rate.currency, rate.per_usd, rate.start] for rate in self.rates]]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All charges of one key and currency in a delivery."""

    key: SnapshotKey
    currency: str
    rows: int
    """As delivered."""
    billed: Decimal
    invoices: Mapping[str, Decimal]
    """Billed by invoice; an empty id is that of charges without one."""
    files: tuple[DeliveredFile, ...]
    """Those with charges of it."""

    @property
    def sha256(self) -> str:
        """Of one file its own, of several that of their hashes."""
        return sha256_of([file.sha256 for file in self.files])


@dataclass
class Reading:
    """`read` first; with any refusal there are no snapshots. `interrupt` ends it early, from any thread."""

    directory: Path
    """Empty, and the reading's own."""
    terms: Terms
    refusals: list[Refusal] = field(default_factory=list)
    snapshots: tuple[Snapshot, ...] = ()
    _stopped: bool = False
    _splits: bool = False

    def __post_init__(self) -> None:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY,
            "temp_directory": str(self.directory / "spill"),
            "max_temp_directory_size": DISK,
            "threads": max(2, min(8, os.cpu_count() or 1)),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._db = duckdb.connect(str(self.directory / "charges.duckdb"), config=settings)
        self._db.execute("SET TimeZone = 'UTC'")
        self._db.execute(SCRIPT)
        self._db.execute("CREATE TABLE mine (resource VARCHAR)")
        if self.terms.mine:
            self._db.executemany("INSERT INTO mine VALUES (?)", [[resource] for resource in sorted(self.terms.mine)])

    def close(self) -> None:
        self._db.close()

    def interrupt(self) -> None:
        self._stopped = True
        self._db.interrupt()

    def read(self, files: Sequence[tuple[DeliveredFile, Path]], *, parts: bool = False) -> None:
        """All of the files, or why not: the first hundred faults of them. `parts`: they are parts of one snapshot."""
        charges = []
        for number, (file, path) in enumerate(files):
            made = self._file(file.name, path, number)
            if made is not None:
                unique = f"SELECT * REPLACE (line + {number << 40} AS line) FROM ({made})"
                self._db.execute(f"CREATE VIEW charges_{number} AS {unique}")
                charges.append(f"SELECT * FROM charges_{number}")
        if self._stopped:
            raise Interrupted
        if not self.refusals:
            try:
                self._compare([file for file, _ in files], parts=parts)
                if not self.refusals:
                    self._sum_up(" UNION ALL ".join(charges), [file for file, _ in files])
            except duckdb.InterruptException as error:
                raise Interrupted from error

    def _compare(self, files: Sequence[DeliveredFile], *, parts: bool) -> None:
        """Refuse files that repeat each other, unless they are `parts` of one snapshot."""
        if len(files) == 1:
            return
        counted = [overlap.counted(f"charges_{number}", number, parts=parts) for number in range(len(files))]
        self._db.execute(f"CREATE TABLE seen AS {' UNION ALL '.join(counted)}")
        told: set[frozenset[int]] = set()
        for number, *values, shared, rows in self._db.execute(overlap.repeated(MAX_REFUSALS)).fetchall():
            key = SnapshotKey(*values)
            ((other,),) = self._db.execute(overlap.OTHER, {"file": number, **asdict(key)}).fetchall()
            pair = frozenset((number, other))
            if pair not in told:
                self._refuse(files[number].name, 0, "", _repeats(key, shared, rows, files[other].name))
            told.add(pair)

    def _sum_up(self, all_charges: str, files: Sequence[DeliveredFile]) -> None:
        if self._splits:
            all_charges = forms.whole_only(all_charges)
        self._db.execute(f"CREATE TABLE charges AS {forms.grouped(all_charges, self.terms.rates)}")
        self.snapshots = self._snapshots(files)
        if not self.snapshots:
            self._refuse(files[0].name, 0, "", "no rows: an export without charges says nothing; leave it out")

    def rows(self, snapshot: Snapshot) -> Iterator[list[tuple[Any, ...]]]:
        """The snapshot's charges in order of their time, some at a time: the fields of `ROW`, amounts as text."""
        key = snapshot.key
        texts = {name: f"CAST({name} AS VARCHAR)" for name in forms.AMOUNTS}
        found = self._db.execute(
            f"SELECT {', '.join(texts.get(name, name) for name in ROW)} FROM charges "
            f"WHERE ({_KEY}, currency) = (?, ?, ?, ?, ?) ORDER BY ALL",
            [key.issuer, key.account, key.period_start, key.period_end, snapshot.currency],
        )
        while batch := found.fetchmany(BATCH):
            if self._stopped:
                raise Interrupted
            yield batch

    def _refuse(self, file: str, line: int, column: str, reason: str) -> None:
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(Refusal(file=file, line=line, column=column, reason=reason))

    def _file(self, name: str, path: Path, number: int) -> str | None:
        """SQL for the file's charges; None where it was refused."""
        before = len(self.refusals)
        charges = None
        try:
            with path.open("rb") as file:
                start = file.read(4)
            if start == ZIP:
                raise csv_lines.Faulty(0, "a ZIP archive: unpack it, and import what is in it")
            opened = self._parquet(name, path) if start == PARQUET else self._csv(name, path, number)
            if opened is not None:
                charges = self._judged(name, *opened)
        except csv_lines.Faulty as error:
            self._refuse(name, error.line, error.column, error.reason)
        except duckdb.InterruptException as error:
            raise Interrupted from error
        except duckdb.Error as error:
            told = str(error).partition("\n")[0].replace(str(path), name)
            self._refuse(name, 0, "", f"cannot be read ({told}): fetch the file again")
        return charges if len(self.refusals) == before else None

    def _judged(self, name: str, form: Form, relation: str, types: Mapping[str, str]) -> str:
        query = forms.query(form, relation, types, self.terms.rates, MAX_REFUSALS)
        for column, reason in query.unsuitable.items():
            self._refuse(name, 0, column, reason)
        for line, reasons in self._db.execute(query.faults).fetchall() if query.faults else ():
            for column, reason in zip(query.columns, reasons, strict=True):
                if reason is not None:
                    self._refuse(name, line, column, reason)
        self._splits |= query.splits
        return query.charges

    def _parquet(self, name: str, path: Path) -> tuple[Form, str, Mapping[str, str]] | None:
        """The file's form, its rows as a relation, and the types of their columns; None where columns are lacking."""
        options = "binary_as_string = true, file_row_number = true"
        file = f"read_parquet({literal(str(path))}, {options})"
        rows = f"(SELECT *, file_row_number + 1 AS {name_of(forms.LINE)} FROM {file})"
        described = self._db.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
        types = {str(name): str(held) for name, held, *_ in described}
        untyped = [name for name, held in types.items() if held == '"NULL"']  # there is no value in it
        if untyped:
            casts = ", ".join(f"CAST({name_of(name)} AS VARCHAR) AS {name_of(name)}" for name in untyped)
            rows = f"(SELECT * REPLACE ({casts}) FROM {rows})"
            types |= dict.fromkeys(untyped, "VARCHAR")
        form = self._form(name, 0, list(types))
        return None if form is None else (form, rows, types)

    def _csv(self, name: str, path: Path, number: int) -> tuple[Form, str, Mapping[str, str]] | None:
        """The same of a CSV file, by way of one that cannot be misread."""
        line, names = csv_lines.header(path)
        form = self._form(name, line, names)
        if form is None:
            return None
        wanted = form.columns(names)
        rewritten = self.directory / f"{number}.csv"
        csv_lines.rewrite(path, wanted, rewritten, lambda: self._stopped)
        columns = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in wanted)
        relation = (
            f"read_csv({literal(str(rewritten))}, columns = {{{literal(forms.LINE)}: 'BIGINT', {columns}}}, {_CSV})"
        )
        return form, relation, dict.fromkeys(wanted, "VARCHAR")

    def _form(self, name: str, line: int, names: Sequence[str]) -> Form | None:
        form = forms.best((FOCUS, CUR, simple(self.terms.source, names)), names)
        before = len(self.refusals)
        for column in form.twice(names):
            self._refuse(name, line, column, "this column is there twice: keep one")
        for column in form.missing(names):
            wants = f"this column is missing: {form.name} wants it; export the file with it"
            self._refuse(name, line, column, wants)
        return form if len(self.refusals) == before else None

    def _snapshots(self, files: Sequence[DeliveredFile]) -> tuple[Snapshot, ...]:
        found = self._db.execute(
            f"SELECT {_KEY}, currency, coalesce(invoice_id, ''), sum(rows), sum(billed) FROM charges GROUP BY ALL"
        ).fetchall()
        origins: dict[SnapshotKey, list[DeliveredFile]] = {}
        seen = "seen" if len(files) > 1 else "(SELECT 0 AS file, * FROM charges)"
        for number, *key in self._db.execute(f"SELECT DISTINCT file, {_KEY} FROM {seen} ORDER BY file").fetchall():
            origins.setdefault(SnapshotKey(*key), []).append(files[number])
        sums: dict[tuple[SnapshotKey, str], list[tuple[str, int, Decimal]]] = {}
        for issuer, account, start, end, currency, invoice, rows, billed in found:
            of = SnapshotKey(issuer, account, start, end), currency
            sums.setdefault(of, []).append((invoice, int(rows), billed))
        return tuple(
            Snapshot(
                key=key,
                currency=currency,
                rows=sum(rows for _, rows, _ in parts),
                billed=sum((billed for _, _, billed in parts), Decimal(0)),
                invoices={invoice: billed for invoice, _, billed in sorted(parts)},
                files=tuple(origins[key]),
            )
            for (key, currency), parts in sorted(sums.items())
        )


_CSV = "header = false, auto_detect = false, delim = ',', quote = '\"', escape = '\"', parallel = false, nullstr = ''"


def _repeats(key: SnapshotKey, shared: int, rows: int, other: str) -> str:
    return (
        f"{shared:,} of its {rows:,} charges of {key.issuer}, account {key.account}, {written(key.period_start)} to "
        f"{written(key.period_end)} stand in {other} too: they are two snapshots of one period; import the newest one "
        "alone, or say --parts if they are parts of one snapshot"
    )


def sha256_of(hashes: Sequence[str]) -> str:
    """Of one file its own hash, of several that of their hashes in order."""
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()
