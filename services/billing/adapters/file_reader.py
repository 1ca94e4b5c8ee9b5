"""Turns one file of a delivery into SQL for its charges, or collects all of its faults."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import duckdb

from services.billing.adapters import csv_lines
from services.billing.adapters.charge_database import disk_part
from services.billing.adapters.file_kinds import kind_of
from services.billing.adapters.row_errors import MAX_ROW_ERRORS, RowErrors
from services.billing.core.invoice_files import schema
from services.billing.core.invoice_files.aws_cur import CUR
from services.billing.core.invoice_files.columns import sql_literal, sql_name
from services.billing.core.invoice_files.focus import FOCUS, simple_schema
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.invoice_files.invalid_files import TOO_LARGE, InvalidFile, check_header
from services.billing.core.invoice_files.schema import FileSchema

LONGEST_RECORD = 2 * 1024**2
"""Bytes, unless a file has longer records: DuckDB's buffers are made for it."""
LEAST_ROW = 16
"""The least bytes that a row of a Parquet file counts for: a few bytes can hold any number of equal rows."""
_NO_PARTITIONS = "hive_partitioning = false"
"""Otherwise a folder named like a column, `tier=gpu`, above the file gives that column's value in every row."""
_CSV = (
    f"{_NO_PARTITIONS}, header = false, auto_detect = false, delim = ',', quote = '\"', escape = '\"', "
    "new_line = '\\n', parallel = false, nullstr = ''"
)


class FileReader:
    """Reads the files of one delivery one by one. Faults go to `refusals`."""

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        directory: Path,
        terms: ImportSettings,
        refusals: RowErrors,
        on_progress: Callable[[int, int], bool],
    ) -> None:
        """`on_progress` as of `csv_lines.rewrite`."""
        self._database = database
        self._directory = directory
        self._terms = terms
        self._refusals = refusals
        self._on_progress = on_progress
        self._bytes_left = disk_part(directory)
        """Disk space left for unpacked files."""
        self.splits = False
        """Whether there may be charges that repeat others in parts."""

    def read(self, name: str, path: Path, number: int) -> str | None:
        """SQL for the file's charges; None where it was refused."""
        before = len(self._refusals.errors)
        charges = None
        with self._refusals.recording(name, path):
            charges = self._parquet(name, path) if kind_of(path) == "parquet" else self._csv(name, path, number)
        return charges if len(self._refusals.errors) == before else None

    def _csv(self, name: str, path: Path, number: int) -> str:
        """Rewrite the file so that DuckDB cannot misread it, and return SQL for its charges."""
        records = csv_lines.first_records(path)
        line, names = records[0]
        form, columns = self._form(name, records)
        rewritten = self._directory / f"{number}.csv"
        size = csv_lines.rewrite(
            path,
            line,
            [names.index(column) for column in columns],
            rewritten,
            max_bytes=self._bytes_left,
            on_progress=self._on_progress,
        )
        self._bytes_left -= size.bytes_read
        types = dict.fromkeys(columns, "VARCHAR")
        described = ", ".join(
            f"{sql_literal(c)}: {sql_literal(t)}" for c, t in {schema.LINE_COLUMN: "BIGINT", **types}.items()
        )
        longest = f"max_line_size = {max(LONGEST_RECORD, size.longest)}"
        relation = f"read_csv({sql_literal(str(rewritten))}, columns = {{{described}}}, {longest}, {_CSV})"
        return self._judged(name, form, relation, types)

    def _parquet(self, name: str, path: Path) -> str:
        file = f"read_parquet({sql_literal(str(path))}, binary_as_string = true, {_NO_PARTITIONS})"
        described = self._database.execute(f"DESCRIBE SELECT * FROM {file}").fetchall()
        held = {str(column): str(kind) for column, kind, *_ in described}
        self._check_size(path)
        form, columns = self._form(name, [(0, list(held))])
        untyped = {column for column in columns if held[column] == '"NULL"'}  # there is no value in it
        read = [f"CAST({sql_name(c)} AS VARCHAR) AS {sql_name(c)}" if c in untyped else sql_name(c) for c in columns]
        number = "row_number() OVER ()" if "file_row_number" in held else "file_row_number + 1"
        relation = f"(SELECT {', '.join([*read, f'{number} AS {sql_name(schema.LINE_COLUMN)}'])} FROM {file})"
        return self._judged(name, form, relation, {c: "VARCHAR" if c in untyped else held[c] for c in columns})

    def _check_size(self, path: Path) -> None:
        sizes = "SELECT sum(total_uncompressed_size) FROM parquet_metadata(?)"
        rows = "SELECT sum(num_rows) FROM parquet_file_metadata(?)"
        size, count = (self._database.execute(sql, [str(path)]).fetchall()[0][0] or 0 for sql in (sizes, rows))
        self._bytes_left -= max(size, count * LEAST_ROW)
        if self._bytes_left < 0:
            raise InvalidFile(0, TOO_LARGE)

    def _form(self, name: str, records: Sequence[tuple[int, Sequence[str]]]) -> tuple[FileSchema, Sequence[str]]:
        """The file's form, and its columns that are read. What it lacks, or has twice, is refused.

        Raises:
            InvalidFile: it is no such file at all.
        """
        line, names = records[0]

        def fitting(some: Sequence[str]) -> FileSchema:
            return schema.best_schema((FOCUS, CUR, simple_schema(self._terms.source, some)), some)

        check_header(records, lambda some: fitting(some).match_ratio(some))
        form = fitting(names)
        twice = form.duplicate_columns(names)
        for column in twice:
            self._refusals.add(name, line, column, "this column is there twice: keep one")
        for column in form.missing_columns(names):
            wants = f"this column is missing: {form.name} wants it; export the file with it"
            self._refusals.add(name, line, column, wants)
        doubtful = {column.casefold() for column in twice}
        return form, [column for column in form.known_columns(names) if column.casefold() not in doubtful]

    def _judged(self, name: str, form: FileSchema, relation: str, types: Mapping[str, str]) -> str:
        """SQL for the charges; what is wrong in the rows is refused besides."""
        query = schema.file_query(form, relation, types, self._terms.rates, MAX_ROW_ERRORS, rounds=self._terms.rounds)
        for column, reason in query.unsuitable.items():
            self._refusals.add(name, 0, column, reason)
        known = {refusal.column for refusal in self._refusals.errors if refusal.file == name}
        for line, reasons in self._database.execute(query.faults).fetchall():
            for column, reason in zip(query.columns, reasons, strict=True):
                if reason is not None and column not in known:
                    self._refusals.add(name, line, column, reason)
        self.splits |= query.splits
        return query.charges
