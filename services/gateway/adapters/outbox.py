"""Usage events on disk: each is written here before anybody else hears of it, and stays until the ledger has it.

One folder of append-only segments, `<source>.<first seq>.log`. `append` writes to the page cache, which survives the
process; `sync` makes it survive the machine, and `read` gives nothing that was not synced. A damaged record is left
out with a word in the log, whatever stands around it is kept. Only what cannot be written waits in memory.
The process holds a lock on the folder: two gateways on one would trim each other's counts.
"""

import asyncio
import errno
import fcntl
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from services.gateway.adapters.segments import Record, Segment, left, line, sync
from shared.bus.subjects import token
from shared.errors import Misconfigured
from shared.messages.codec import Decoder, encode
from shared.messages.gateway import UsageEvent

SEGMENT_BYTES = 4 * 1024 * 1024
"""Small enough to be rewritten never and deleted often, large enough that a day is not a thousand files."""

log = structlog.get_logger()


class _Completed(msgspec.Struct):
    completed_at: float


_completed: Decoder[_Completed] = Decoder(_Completed)


class Cursor(NamedTuple):
    """A place in a source's events. Made of the first two alone it is looked for, once."""

    source: str
    seq: int
    """All up to this number is behind it."""
    segment: Segment | None = None
    offset: int = 0


@dataclass
class _Source:
    """What is on disk of one boot's events."""

    mark: int
    """The ledger has everything up to here."""
    last: int
    """Sequence number of the last one written."""
    synced: int
    segments: deque[Segment] = field(default_factory=deque)


class Outbox:
    """The folder. `append` never raises: what cannot be written waits in memory, and `fault` says so until it can.

    Only requests in flight when the disk fills wait there: a gateway with a `fault` takes no new ones.
    """

    def __init__(self, folder: Path, source: str, *, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = _locked(folder)
        self.source = source
        self.next_seq = 1
        """What the next event has to have as its `source_seq`."""
        self.size = 0
        """Bytes on disk."""
        self.pending = 0
        """Events that the ledger has not confirmed."""
        self._max_bytes = max_bytes
        # A bound that is smaller than a few segments could not be left again by forgetting one.
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // 4)
        self._name = token(source)
        self._own = _Source(mark=0, last=0, synced=0)
        self._sources = {source: self._own}
        for earlier, segments in left(folder).items():
            if earlier == source:
                raise Misconfigured(f"{folder}: has events of {source}: each boot needs a name of its own")
            self._adopt(earlier, segments)
        self._file: int | None = None
        self._unwritten: deque[tuple[int, bytes]] = deque()
        self._write_fault: str | None = None
        self._sync_fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Why nothing new may be served; None: all is well. Cheap: it is asked for each request."""
        if reason := self._write_fault or self._sync_fault:
            return f"the outbox cannot write: {reason}: free space in {self._folder}"
        if self.size >= self._max_bytes:
            return f"the outbox has reached its {self._max_bytes} bytes: is the meter running?"
        return None

    @property
    def sources(self) -> list[str]:
        """This boot's own, and every earlier one of which something is on disk."""
        return list(self._sources)

    @property
    def oldest_at(self) -> float | None:
        """When the oldest event that is on disk and not confirmed was completed, Unix seconds. Reads a block or two."""
        first = [self.read(Cursor(name, source.mark))[0][:1] for name, source in self._sources.items()]
        return min((_completed.decode(r.payload).completed_at for records in first for r in records), default=None)

    def mark(self, source: str) -> int:
        """Up to which sequence number the ledger has it."""
        found = self._sources.get(source)
        return found.mark if found else 0

    def synced(self, source: str) -> int:
        """Up to which sequence number the disk has it for sure: as far as `read` goes."""
        found = self._sources.get(source)
        return found.synced if found else 0

    def append(self, event: UsageEvent) -> None:
        """Write the event, which its maker has given its place: `source`, and `next_seq` of that moment."""
        seq = self.next_seq
        if event.source_seq != seq or event.source != self.source:
            # A defect of the caller costs no count.
            log.error("usage event out of sequence, numbered anew", id=event.id, seq=event.source_seq, expected=seq)
            event = msgspec.structs.replace(event, source=self.source, source_seq=seq)
        self.next_seq = seq + 1
        self.pending += 1
        record = line(seq, event.id, encode(event))
        if self._unwritten or not self._write(seq, record):
            self._unwritten.append((seq, record))

    def write_waiting(self) -> None:
        """Write what could not be written before."""
        while self._unwritten and self._write(*self._unwritten[0]):
            self._unwritten.popleft()

    async def sync(self) -> None:
        """Make all that is written now survive the machine, in a thread, since it may take long."""
        work = []
        for segment in reversed(self._own.segments):
            if segment.durable < segment.size:
                work.append((segment, segment.size))
            elif segment.size:
                break
        if not work:
            return
        last, fresh = self._own.last, any(segment.durable == 0 for segment, _ in work)
        try:
            await asyncio.to_thread(sync, [segment for segment, _ in reversed(work)], self._folder if fresh else None)
        except OSError as error:
            self._sync_fault = self._told(self._sync_fault, error)
            return
        self._sync_fault = None
        for segment, size in work:
            segment.durable = size
        self._own.synced = last

    def read(self, cursor: Cursor) -> tuple[list[Record], Cursor]:
        """The next block of what is synced, and the cursor behind it; no record: there is no more yet.

        Reads from the page cache as a rule, and after a boot in order, which the kernel reads ahead: hence no thread.
        `OSError` when the disk does not answer.
        """
        source = self._sources.get(cursor.source)
        while source and cursor.seq < source.synced and (place := _place(source, cursor)):
            segment, offset = place
            records, beyond = segment.read(offset)
            if records and records[0].seq <= cursor.seq:
                records = [record for record in records if record.seq > cursor.seq]
            cursor = Cursor(cursor.source, records[-1].seq if records else cursor.seq, segment, beyond)
            if records:
                return records, cursor
        return [], cursor

    def confirm(self, source: str, up_to: int) -> bool:
        """The ledger has everything up to here: forget it, segment by segment. False: that was known."""
        found = self._sources.get(source)
        if found is None or up_to <= found.mark:
            return False
        own = found is self._own
        if own and up_to > found.last:
            log.error("confirmed beyond what was ever written, ignored", source=source, mark=up_to, last=found.last)
            return False
        up_to = min(up_to, found.last)
        self.pending -= up_to - found.mark
        found.mark = up_to
        while found.segments and found.segments[0].last <= up_to:
            if own and len(found.segments) == 1:
                if found.segments[0].size < self._segment_bytes // 4:
                    break  # the segment being written is kept until it is worth a new file
                self._close_file()
            self._forget(found.segments.popleft())
        if not own and not found.segments:
            del self._sources[source]
        return True

    def close(self) -> None:
        self._close_file()
        os.close(self._lock)

    def _write(self, seq: int, record: bytes) -> bool:
        try:
            if self._file is None or self._own.segments[-1].size >= self._segment_bytes:
                self._file = self._begun(seq)
            segment = self._own.segments[-1]
            # At its place, not at the end: what a failed write left there is overwritten by the next one.
            if os.pwrite(self._file, record, segment.size) < len(record):
                os.ftruncate(self._file, segment.size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._write_fault = self._told(self._write_fault, error)
            return False
        segment.size += len(record)
        self.size += len(record)
        segment.last = self._own.last = seq
        self._write_fault = None
        return True

    def _begun(self, seq: int) -> int:
        path = self._folder / f"{self._name}.{seq:012d}.log"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._close_file()
        self._own.segments.append(Segment(path, first=seq, last=seq - 1, size=0, durable=0))
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _forget(self, segment: Segment) -> None:
        segment.path.unlink(missing_ok=True)
        segment.forgotten = True
        self.size -= segment.size

    @staticmethod
    def _told(before: str | None, error: OSError) -> str:
        reason = error.strerror or str(error)
        if before != reason:
            log.error("outbox cannot write", error=reason)
        return reason

    def _adopt(self, source: str, segments: deque[Segment]) -> None:
        """What an earlier boot left."""
        before, last = segments[0].first - 1, segments[-1].last
        self._sources[source] = _Source(mark=before, last=last, synced=last, segments=segments)
        self.size += sum(segment.size for segment in segments)
        self.pending += last - before
        log.info("outbox adopted", source=source, events=last - before)


def _place(source: _Source, cursor: Cursor) -> tuple[Segment, int] | None:
    """Where to read on; None: nothing more is synced."""
    segment = cursor.segment
    if segment is None or segment.forgotten:
        found = next((s for s in source.segments if s.last > cursor.seq), None)
        return (found, found.offset_after(cursor.seq)) if found else None
    if cursor.offset < segment.durable:
        return segment, cursor.offset
    # A segment may be half synced: what comes behind it has to wait, or the order would be lost.
    following = next((s for s in source.segments if s.first > segment.first), None)
    return (following, 0) if following and segment.durable == segment.size else None


def _locked(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Misconfigured(f"{folder}: another gateway uses it: give each its own --data-dir") from None
    return lock
