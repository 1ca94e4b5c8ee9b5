"""Recognizes files that are no invoice files by their first bytes or lines, before any other fault is looked for."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

HEAD_BYTES = 64 * 1024
"""How much of a file tells what it is."""
HEADER_LINES = 50
"""Further down no header is looked for."""
MAX_COLUMNS = 800
"""AWS has the most: 125 besides its 500 tags. What is worked out for each of them takes seconds with so many."""
TOO_LARGE = (
    "more than the memory and a quarter of the free disk hold: free space on the disk of the data directory, or "
    "import a billing period at a time"
)

_FORMATS: Mapping[bytes, str] = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Excel workbook, of an old format or with a password: "
    "save its sheet as CSV (UTF-8)",
    b"%PDF": "a PDF document: an invoice to read; export the charges as CSV or Parquet",
    b"BZh": "a bzip2 archive: unpack it, and import what is in it",
    b"\xfd7zXZ\x00": "an xz archive: unpack it, and import what is in it",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it, and import what is in it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it, and import what is in it",
    b"Rar!": "a RAR archive: unpack it, and import what is in it",
    b"PARE": "an encrypted Parquet file: export it without encryption",
    b"ORC": "an ORC file: export it as CSV or Parquet",
    b"Obj\x01": "an Avro file: export it as CSV or Parquet",
    b"SQLite format 3": "a SQLite database: export it as CSV or Parquet",
    b"\x89PNG": "a picture: export the charges as CSV or Parquet",
    b"\xff\xd8\xff": "a picture: export the charges as CSV or Parquet",
}
_TAR_MAGIC = slice(257, 262)
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
_UNSUPPORTED_EXPORTS = {
    "lineitem/unblendedcost": "the older Cost and Usage Report of AWS: export CUR 2.0 or FOCUS",
    "identity/lineitemid": "the older Cost and Usage Report of AWS: export CUR 2.0 or FOCUS",
    "costinbillingcurrency": 'Azure\'s cost details: export the dataset "Cost and usage details (FOCUS)"',
    "pretaxcost": 'Azure\'s usage details: export the dataset "Cost and usage details (FOCUS)"',
}
"""By a column's name in small letters."""


@dataclass(frozen=True)
class InvalidFile(Exception):
    """The file cannot be read; the line counts from 1, 0 is the whole file."""

    line: int
    reason: str
    column: str = ""


def detect_unsupported_format(head: bytes) -> str | None:
    """Return what the file is by its first bytes, if it is nothing that we read."""
    if head and not any(head):
        return "nothing but zeros, as of a download that stopped early: fetch the file again"
    if head[_TAR_MAGIC] == b"ustar":
        return "a tar archive: unpack it, and import what is in it"
    for start, reason in _FORMATS.items():
        if head.startswith(start):
            return reason
    if head.startswith(_UTF16_MARKS) or _is_utf16(head):
        return "UTF-16 text: save it as CSV (UTF-8)"
    return _detect_markup(head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1024].lower())


def describe_zip(names: Sequence[str], *, encrypted: bool) -> str:
    """What an archive with these files is."""
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook: save its sheet as CSV (UTF-8)"
    if "content.xml" in names or "word/document.xml" in names:
        return "an office document: save it as CSV (UTF-8)"
    if encrypted:
        return "an encrypted ZIP archive: unpack it with its password, and import what is in it"
    return "a ZIP archive: unpack it, and import what is in it"


def check_header(lines: Sequence[tuple[int, Sequence[str]]], share: Callable[[Sequence[str]], float]) -> None:
    """Check that the first of these records is a known header.

    `share` tells how much of what a form needs some names have: 1 is all of it.

    Raises:
        InvalidFile: it is none.
    """
    line, names = lines[0]
    check_column_count(line, len(names))
    _check_known_export(line, names)
    if share(names) >= 0.5:
        return
    for other, cells in lines:
        if share(cells) >= 0.5:
            raise InvalidFile(line, f"line {other} looks like the header: remove the lines above it")
        for separator, name in _SEPARATORS.items():
            parts = [part.strip(' "') for part in separator.join(cells).split(separator)]
            if len(cells) < len(parts) <= MAX_COLUMNS and share(parts) >= 0.5:
                raise InvalidFile(other, f"columns are separated by {name}: export it with commas")
    if share(names) == 0:
        raise InvalidFile(
            line,
            "no columns that we know: expected those of FOCUS, of CUR 2.0 or date,resource,cost,currency, "
            f"got '{','.join(names)[:100]}'",
        )


def check_column_count(line: int, count: int) -> None:
    """Raise `InvalidFile` if there are too many columns to look at."""
    if count > MAX_COLUMNS:
        raise InvalidFile(line, f"{count:,} columns, and at most {MAX_COLUMNS} are read: export fewer of them")


def _check_known_export(line: int, names: Sequence[str]) -> None:
    """Raise `InvalidFile` if the columns are those of a known export that is not FOCUS."""
    for name in names:
        if (reason := _UNSUPPORTED_EXPORTS.get(name.casefold())) is not None:
            raise InvalidFile(line, reason, name)


def _is_utf16(head: bytes) -> bool:
    """Whether every other byte of the beginning is 0, as in UTF-16 of Latin letters."""
    start = head[:64]
    return len(start) >= 8 and (not any(start[::2]) or not any(start[1::2]))


def _detect_markup(text: bytes) -> str | None:
    """Return what markup the text is by its beginning, which is given in lower case."""
    if re.match(rb"(<!--.*?-->\s*|<\?xml[^>]*>\s*)*(<!doctype html|<html|<head|<body|<script)", text, re.DOTALL):
        return "a web page, as a site sends one to a visitor who is not logged in: log in, and fetch the file again"
    if text.startswith((b"<?xml", b"<error")):
        return "an XML document: export the charges as CSV or Parquet"
    if text.startswith((b"{", b"[")):
        return "JSON: export the charges as CSV or Parquet"
    return None
