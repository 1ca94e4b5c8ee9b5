"""Rewrites CSV files so that DuckDB cannot misread them. Python's csv module is strict and knows the line numbers.

The result has only the columns that are read, the line on which each record began, and every cell in quotes.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.billing.adapters.file_kinds import open_file, position, unpacked
from services.billing.core.invoice_files.invalid_files import HEADER_LINES, TOO_LARGE, InvalidFile, check_column_count
from services.billing.core.invoice_files.sql_macros import BLANK_CHARACTERS
from shared.messages.codec import Unreadable, decode_text

MAX_LINE = 4 * 1024**2
"""Bytes; also of a record with quoted line breaks. Each byte can take fifty in memory."""
MAX_EMPTY_LINES = 100_000
HEADER_BYTES = 16 * 1024**2
"""The header must lie within these first bytes."""
csv.field_size_limit(MAX_LINE)
PROGRESS_LINES = 20_000
_BOM = "\ufeff"


@dataclass(frozen=True)
class Rewritten:
    """The size of a rewritten file."""

    bytes_read: int
    """The size of the uncompressed file."""
    longest: int
    """Upper bound of the longest record in bytes."""


def first_records(path: Path) -> list[tuple[int, list[str]]]:
    """Return the first records that are not empty, each with its line and trimmed cells.

    Quoting errors are ignored here: what the file is matters first.
    """
    records: list[tuple[int, list[str]]] = []
    with open_file(path) as stream:
        lines = _Lines(stream)
        for (line, record), _ in zip(_records(lines, strict=False), range(HEADER_LINES), strict=False):
            cells = [cell.strip(BLANK_CHARACTERS) for cell in record]
            if any(cells):
                records.append((line, cells))
            if lines.bytes_read > HEADER_BYTES:
                break
    if not records:
        raise InvalidFile(
            1, "an empty file: expected the columns' names in the first line, and one charge per line below"
        )
    return records


def rewrite(
    path: Path, line: int, places: Sequence[int], into: Path, *, max_bytes: int, on_progress: Callable[[int, int], bool]
) -> Rewritten:
    """The records below the header on `line`, their line and the cells at `places` alone; `WrongFile` says why not.

    `max_bytes` bounds the file unpacked. `on_progress` is called now and then and at the end, with how many charges and
    bytes of the file were read; True ends the work early.
    """
    longest = rows = 0
    header: list[str] = []
    with open_file(path) as stream, into.open("w", encoding="utf-8", newline="") as out:
        lines = _Lines(stream, max_bytes)
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for at, cells in _records(lines):
            if at <= line:
                header = cells
                continue
            if cells == header:
                raise InvalidFile(
                    at, "the header again, of several files in one: import them as they were, in a folder"
                )
            if len(cells) != len(header):
                raise _other_width(at, len(cells), len(header), ended=lines.ended)
            written = writer.writerow([at, *(cells[place] for place in places)])
            longest = max(longest, written)
            rows += 1
            if rows % PROGRESS_LINES == 0 and on_progress(rows, position(stream)):
                break
        on_progress(rows, position(stream))
    return Rewritten(lines.bytes_read, longest * _MOST_BYTES)


_MOST_BYTES = 4
"""The most bytes that a character has in UTF-8."""


def _other_width(line: int, cells: int, width: int, *, ended: bool) -> InvalidFile:
    if not ended and cells < width:
        return InvalidFile(
            line, f"ends within this line ({cells} of {width} fields): a download that stopped early; {_AGAIN}"
        )
    return InvalidFile(line, f"{cells} fields where the header has {width}: {_AGAIN}")


_AGAIN = "fetch the file again"


class _Lines:
    """The lines of a stream as text. Lines end with LF, CR LF or CR."""

    def __init__(self, stream: IO[bytes], max_bytes: int | None = None) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._line = 0
        self.record_bytes = 0
        """Bytes read since this was last set to 0."""
        self.bytes_read = 0
        self.ended = True
        """Whether the last line has a line ending."""

    def __iter__(self) -> Iterator[str]:
        pending = b""
        for chunk in unpacked(self._stream):
            self.bytes_read += len(chunk)
            if self._max_bytes is not None and self.bytes_read > self._max_bytes:
                raise InvalidFile(0, TOO_LARGE)
            lines = (pending + chunk).splitlines(keepends=True)
            # The last one may go on in the next chunk, a CR with its LF.
            pending = lines.pop()
            yield from map(self._text, lines)
            if len(pending) > MAX_LINE:
                raise _too_long(self._line + 1)
        if pending:
            self.ended = pending.endswith((b"\n", b"\r"))
            yield self._text(pending)

    def _text(self, raw: bytes) -> str:
        self._line += 1
        self.record_bytes += len(raw)
        if self.record_bytes > MAX_LINE:
            raise _too_long(self._line)
        try:
            return decode_text(raw).lstrip(_BOM)
        except Unreadable as error:
            raise InvalidFile(self._line, f"{error}: export it as UTF-8 CSV") from error


def _too_long(line: int) -> InvalidFile:
    return InvalidFile(
        line, f"a line or a charge has more than {MAX_LINE:,} bytes: export it as CSV with a charge a line"
    )


def _records(lines: _Lines, *, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that are not empty, each with the line on which it begins."""
    reader = csv.reader(lines, strict=strict)
    line, empty = 1, 0
    try:
        for cells in reader:
            lines.record_bytes = 0
            check_column_count(line, len(cells))
            if cells:
                yield line, cells
            else:
                empty += 1
                if empty > MAX_EMPTY_LINES:
                    raise InvalidFile(line, f"more than {MAX_EMPTY_LINES:,} empty lines: {_AGAIN}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidFile(line, f"not CSV ({error}): {_AGAIN}") from error
