"""One file of the outbox: its records, where each begins, and what of them is damaged.

A record is a line: the CRC-32 of the rest in 8 hex digits, sequence number, id, and the event's JSON as the bus gets
it, a space between two. Numbers ascend; JSON has no line break of its own.
"""

import os
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgspec
import structlog

from shared.bus.subjects import name as untoken
from shared.messages.codec import Unreadable, decode_text

BLOCK_BYTES = 160 * 1024
"""Read at once: some 250 events, which is also what is published at once."""
PROBE_BYTES = 16 * 1024
"""Read per step when a number is looked for."""
_NAME = re.compile(r"([\w=-]+)\.(\d+)\.log")

log = structlog.get_logger()


class Record(msgspec.Struct, frozen=True, gc=False):
    """One usage event on its way. A struct of this kind is made in a third of a named tuple's time."""

    seq: int
    id: str
    payload: bytes


def line(seq: int, event_id: str, payload: bytes) -> bytes:
    """The record's line, its end included."""
    rest = b"%d %s %s" % (seq, event_id.encode(), payload)
    return b"%08x %s\n" % (crc32(rest), rest)


def parse(text: bytes) -> Record | None:
    """A line without its end; None: damaged."""
    try:
        checksum, seq, event_id, payload = text.split(b" ", 3)
        if int(checksum, 16) != crc32(text[9:]):
            return None
        return Record(int(seq), decode_text(event_id), payload)
    except ValueError:
        return None


@dataclass(eq=False)
class Segment:
    """A file and what is known of it without reading it again."""

    path: Path
    first: int
    """Sequence number that its first record has, or will have."""
    last: int
    """That of its last record; `first - 1` while it is empty."""
    size: int
    durable: int
    """Bytes that survive the machine: no reader goes beyond them."""
    forgotten: bool = False
    """The file is gone, since the ledger has all of it."""

    def read(self, offset: int) -> tuple[list[Record], int]:
        """The records of the next block, and where the one after it begins; `OSError` when the disk does not answer."""
        lines, beyond = self._lines(offset)
        records = []
        for text in lines:
            record = parse(text)
            if record is None:
                log.error("outbox record damaged, left out", path=str(self.path), block=offset, bytes=len(text))
            else:
                records.append(record)
        return records, beyond

    def offset_after(self, seq: int) -> int:
        """Where a record begins, all before it numbered up to `seq`, and not much after it either: by bisection.

        A number that damage hides is taken for a later one: that costs reading, and misses nothing.
        """
        low, high = 0, self.durable
        while high - low > PROBE_BYTES:
            middle = (low + high) // 2
            probe = self._pread(min(PROBE_BYTES, self.durable - middle), middle)
            at = probe.find(b"\n") + 1
            end = probe.find(b"\n", at) + 1
            record = parse(probe[at : end - 1]) if 0 < at < end else None
            if record is not None and record.seq <= seq:
                low = middle + end
            else:
                high = middle
        return low

    def last_readable(self) -> int:
        """Sequence number of its last undamaged record; `first - 1`: it has none."""
        last, offset = self.first - 1, 0
        while offset < self.durable:
            lines, offset = self._lines(offset)
            last = max([record.seq for text in lines if (record := parse(text))], default=last)
        return last

    def _lines(self, offset: int) -> tuple[list[bytes], int]:
        """The whole lines of the next block. A block grows until it has one: damage may have taken their ends."""
        length = BLOCK_BYTES
        while True:
            block = self._pread(min(length, self.durable - offset), offset)
            if len(block) < length or offset + length >= self.durable:
                # The end: a last line may lack its own end, and a file may be shorter than it was.
                return [text for text in block.split(b"\n") if text], self.durable
            if end := block.rfind(b"\n") + 1:
                return block[: end - 1].split(b"\n"), offset + end
            length *= 2

    def _pread(self, length: int, offset: int) -> bytes:
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(file, length, offset)
        finally:
            os.close(file)


def sync(segments: Iterable[Segment], folder: Path | None) -> None:
    """Returns once all that was written before survives the machine, and with `folder` the files' names as well.

    `OSError` when the disk says no.
    """
    for segment in segments:
        try:
            file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # the ledger has had all of it meanwhile
        try:
            os.fdatasync(file)
        finally:
            os.close(file)
    if folder:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def left(folder: Path) -> dict[str, deque[Segment]]:
    """By source, in order: what earlier boots left in the folder, on the disk for sure when this returns.

    Only the last file of each is read: sequences have no gap, so a file ends where the next one begins.
    """
    files: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.glob("*.log"):
        try:
            source, first = _named(path.name)
        except Unreadable:
            log.error("not a segment of the outbox, left alone", path=str(path))
        else:
            files.setdefault(source, []).append((first, path))
    found = {}
    for source, named in files.items():
        named.sort()
        beyond = [first for first, _ in named[1:]] + [named[-1][0]]
        segments = deque(_segment(path, first, last=end - 1) for (first, path), end in zip(named, beyond, strict=True))
        newest = segments[-1]
        newest.last = newest.last_readable()
        if newest.last < newest.first:
            log.error("outbox segment without a readable record, deleted", path=str(newest.path), bytes=newest.size)
            segments.pop().path.unlink()
        if segments:
            found[source] = segments
    sync([segment for segments in found.values() for segment in segments], folder)
    return found


def _named(file_name: str) -> tuple[str, int]:
    """Whose events a file has, and the number of its first one; `Unreadable`."""
    match = _NAME.fullmatch(file_name)
    if match is None:
        raise Unreadable("not a segment's name")
    return untoken(match[1]), int(match[2])


def _segment(path: Path, first: int, last: int) -> Segment:
    size = path.stat().st_size
    return Segment(path, first=first, last=last, size=size, durable=size)
