"""Detects the type of an invoice file, and opens it."""

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

from services.billing.core.invoice_files.invalid_files import (
    HEAD_BYTES,
    InvalidFile,
    describe_zip,
    detect_unsupported_format,
)

GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ENCRYPTED = 1
_SMALLEST_PARQUET = 12
CHUNK = 256 * 1024


def kind_of(path: Path) -> Literal["csv", "parquet"]:
    """Return as what to read the file. `WrongFile` says what it is instead."""
    with path.open("rb") as plain:
        head = plain.read(HEAD_BYTES)
    if head.startswith(ZIP):
        raise InvalidFile(0, _in_zip(path))
    if head.startswith(PARQUET):
        _check_end(path)
        return "parquet"
    if head.startswith(GZIP):
        with open_file(path) as stream:
            head = next(unpacked(stream), b"")[:HEAD_BYTES]
        if head.startswith((*ZIP, PARQUET, GZIP)):
            raise InvalidFile(0, "a Parquet file or an archive within gzip: unpack it, and import what is in it")
    if (reason := detect_unsupported_format(head)) is not None:
        raise InvalidFile(0, reason)
    return "csv"


def open_file(path: Path) -> IO[bytes]:
    """Open the file; gzip is decompressed."""
    with path.open("rb") as plain:
        packed = plain.read(2) == GZIP
    return cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb")


def position(stream: IO[bytes]) -> int:
    """Return how many bytes of the file have been read, before decompression."""
    raw: Any = stream
    return int(raw.fileobj.tell() if isinstance(stream, gzip.GzipFile) else raw.tell())


def unpacked(stream: IO[bytes]) -> Iterator[bytes]:
    """What `open_file` opened, in chunks; `WrongFile` where it is damaged."""
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    except EOFError as error:
        raise InvalidFile(0, "a download that stopped early (its gzip has no end): fetch the file again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InvalidFile(0, f"damaged gzip ({error}): fetch the file again") from error


def _check_end(path: Path) -> None:
    """Check that a Parquet file ends with its magic bytes."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(PARQUET)))
        end = file.read()
    if size < _SMALLEST_PARQUET or end not in (PARQUET, b"PARE"):
        raise InvalidFile(0, "a download that stopped early (a Parquet file without its end): fetch the file again")


def _in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            files = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return "a ZIP archive, damaged or not whole: fetch the file again, and unpack it"
    return describe_zip([file.filename for file in files], encrypted=any(file.flag_bits & _ENCRYPTED for file in files))
