"""CSV files as DuckDB cannot misread them: gone through once by Python's csv, which is strict and knows the lines.

What comes out has the wanted columns only, each record with the line on which it began, every cell quoted.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from shared.messages.codec import Unreadable, decode_text

MAX_BYTES = 64 * 1024**3
"""Unpacked: a file that packs a thousandfold is an attack, and the disk has an end."""
MAX_LINE = 4 * 1024**2
LINES_A_LOOK = 20_000
GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Faulty(Exception):
    """The file is no such CSV; the line counts from 1, 0 is the whole file."""

    line: int
    reason: str
    column: str = ""


def header(path: Path) -> tuple[int, list[str]]:
    """The first record that is not empty, trimmed, and its line. `Faulty` where there is none."""
    with _opened(path) as stream:
        for line, cells in _records(stream):
            return line, [cell.strip() for cell in cells]
    raise Faulty(1, "empty: expected the columns' names in the first line")


def rewrite(path: Path, columns: Sequence[str], into: Path, stopped: Callable[[], bool]) -> None:
    """The file's records, those of its `columns` alone, into a file of `line` and those; `Faulty` says why not.

    `stopped` is asked now and then, and ends it early.
    """
    with _opened(path) as stream, into.open("w", encoding="utf-8", newline="") as out:
        records = _records(stream)
        _, names = next(records)
        places = [[name.strip() for name in names].index(column) for column in columns]
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for number, (line, cells) in enumerate(records):
            if len(cells) != len(names):
                raise Faulty(line, f"{len(cells)} fields where the header has {len(names)}: fetch the file again")
            writer.writerow([line, *(cells[place] for place in places)])
            if number % LINES_A_LOOK == 0 and stopped():
                return


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as plain:
        packed = plain.read(2) == GZIP
    return cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb")


def _records(stream: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """Records that are not empty, each with the line on which it begins."""
    reader = csv.reader(_lines(cast("BufferedReader", stream)), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise Faulty(line, f"not CSV ({error}): fetch the file again") from error
    except (EOFError, OSError, zlib.error) as error:
        raise Faulty(0, f"damaged gzip ({error}): fetch the file again") from error


def _lines(stream: BufferedReader) -> Iterator[str]:
    read = line = 0
    while raw := stream.readline(MAX_LINE + 1):
        line += 1
        read += len(raw)
        if len(raw) > MAX_LINE or read > MAX_BYTES:
            raise Faulty(line, f"a line of more than {MAX_LINE} bytes, or a file of more than {MAX_BYTES}: split it")
        try:
            yield decode_text(raw.removeprefix(_BOM) if line == 1 else raw)
        except Unreadable as error:
            raise Faulty(line, f"{error}: export it as UTF-8 CSV") from error
