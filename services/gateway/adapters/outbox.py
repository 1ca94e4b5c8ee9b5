"""Usage events on disk: each is written before its client has the complete response, and kept until the ledger has it.

The outbox is a folder of append-only segments, `<source>.<first seq>.log`. `append` buffers an event, and
`write_pending` writes the buffer to the page cache, which survives the process. `sync` makes it survive the machine,
and `read` returns only what was synced. A damaged record is skipped and logged; the records around it are kept. The
process locks the folder: two gateways on one folder would delete each other's events.
"""

import asyncio
import errno
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from services.gateway.adapters.outbox_folders import lock_folder
from services.gateway.adapters.segments import Record, Segment, encode_record, load_segments, sync_to_disk
from shared.bus.subjects import token
from shared.errors import Misconfigured
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent

SEGMENT_BYTES = 4 * 1024 * 1024
"""Small enough to delete often and never rewrite, large enough that a day is not a thousand files."""
WRITE_BYTES = 256 * 1024
"""Bytes per write: about 400 events. If a full disk refuses them, building the batch has cost only 20 µs."""

log = structlog.get_logger()


class _Completed(msgspec.Struct):
    completed_at: float


class Cursor(NamedTuple):
    """A position in a source's events. Without a segment and an offset, `read` searches for them, once."""

    source: str
    seq: int
    """Events up to this number are before the cursor."""
    segment: Segment | None = None
    offset: int = 0


@dataclass
class _Source:
    """One source's events on disk."""

    mark: int = 0
    """The ledger has every event up to this number."""
    last: int = 0
    """Sequence number of the last event written."""
    synced: int = 0
    segments: deque[Segment] = field(default_factory=deque)


_NOTHING = _Source()


class Outbox:
    """The outbox of one process. No write raises: events that cannot be written wait in memory while `fault` says why.

    Only requests in flight when the disk fills can wait there, since a gateway with a `fault` takes no new ones.
    """

    def __init__(self, folder: Path, source: str, *, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        try:
            self._lock = lock_folder(folder)
        except BlockingIOError:
            raise Misconfigured(
                f"{folder}: another gateway uses this outbox: give each gateway its own --data-dir"
            ) from None
        self.source = source
        self.next_seq = 1
        """The `source_seq` of the next event."""
        self.size_bytes = 0
        """Bytes on disk."""
        self.pending = 0
        """Events that the ledger has not confirmed, including those in memory."""
        self._max_bytes = max_bytes
        # With a bound of less than a few segments, deleting one would not bring the size below it.
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // 4)
        self._own = _Source()
        self._sources = {source: self._own}
        for earlier, segments in load_segments(folder).items():
            if earlier == source:
                raise Misconfigured(f"{folder}: already has events of {source}: each boot needs its own instance name")
            before, last = segments[0].first - 1, segments[-1].last
            self._sources[earlier] = _Source(mark=before, last=last, synced=last, segments=segments)
            self.size_bytes += sum(segment.size_bytes for segment in segments)
            self.pending += last - before
            log.info("outbox_adopted", source=earlier, events=last - before)
        self._file: int | None = None
        self._buffer: deque[bytes] = deque()
        """Records that follow the last one written, without a gap."""
        self._write_fault: str | None = None
        self._sync_fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Why no new request may be served; None if all is well. Cheap, since it is read for each request."""
        if reason := self._write_fault or self._sync_fault:
            return f"the outbox cannot write: {reason}: free space in {self._folder}"
        if self.size_bytes >= self._max_bytes:
            return f"the outbox has reached its limit of {self._max_bytes} bytes: check the bus and the meter"
        return None

    @property
    def sources(self) -> list[str]:
        """This boot's source, and each earlier one that has events on disk."""
        return list(self._sources)

    @property
    def oldest_at(self) -> float | None:
        """Unix seconds at which the oldest unconfirmed event on disk was completed. Reads a block or two."""
        first = [self.read(Cursor(name, source.mark))[0][:1] for name, source in self._sources.items()]
        return min((decode(r.payload, _Completed).completed_at for records in first for r in records), default=None)

    def mark(self, source: str) -> int:
        """Return the sequence number up to which the ledger has the source's events."""
        return self._sources.get(source, _NOTHING).mark

    def synced(self, source: str) -> int:
        """Return the sequence number up to which the events are synced: as far as `read` goes."""
        return self._sources.get(source, _NOTHING).synced

    def append(self, event: UsageEvent) -> None:
        """Buffer an event, which must have this `source` and `next_seq`.

        It is written when this event loop iteration ends, or by an earlier `write_pending`, which whoever writes to
        clients calls first. Without a running loop it is written at once.
        """
        seq = self.next_seq
        if event.source_seq != seq or event.source != self.source:
            # A bug in the caller must not lose the event.
            log.error("usage_event_renumbered", id=event.id, seq=event.source_seq, expected=seq)
            event = msgspec.structs.replace(event, source=self.source, source_seq=seq)
        self._buffer.append(encode_record(seq, event.id, encode(event)))
        self.next_seq = seq + 1
        self.pending += 1
        if len(self._buffer) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.write_pending)
            except RuntimeError:
                self.write_pending()

    def write_pending(self) -> None:
        """Write the buffer; what the disk refuses stays buffered, in order."""
        try:
            while self._buffer:
                self._write()
        except OSError as error:
            self._write_fault = self._describe(self._write_fault, error)
        else:
            self._write_fault = None

    async def sync(self) -> None:
        """Sync all events so far to disk, in a thread, since it may take long."""
        self.write_pending()
        work = [
            (segment, segment.size_bytes)
            for segment in self._own.segments
            if segment.durable_bytes < segment.size_bytes
        ]
        if not work:
            return
        last, has_new_file = self._own.last, any(segment.durable_bytes == 0 for segment, _ in work)
        try:
            folder = self._folder if has_new_file else None
            await asyncio.to_thread(sync_to_disk, [segment for segment, _ in work], folder)
        except OSError as error:
            self._sync_fault = self._describe(self._sync_fault, error)
            return
        self._sync_fault = None
        for segment, size_bytes in work:
            segment.durable_bytes = size_bytes
        self._own.synced = last

    def read(self, cursor: Cursor) -> tuple[list[Record], Cursor]:
        """Return the next block of synced records, and the cursor after it; no records if there are no more yet.

        This usually reads from the page cache, and after a boot in order, which the kernel reads ahead: hence no
        thread.

        Raises:
            OSError: the disk failed.
        """
        source = self._sources.get(cursor.source)
        while source and cursor.seq < source.synced and (place := _locate(source, cursor)):
            segment, offset = place
            records, next_offset = segment.read(offset)
            if records and records[0].seq <= cursor.seq:
                records = [record for record in records if record.seq > cursor.seq]
            cursor = Cursor(cursor.source, records[-1].seq if records else cursor.seq, segment, next_offset)
            if records:
                return records, cursor
        return [], cursor

    def confirm(self, source: str, up_to: int) -> bool:
        """Delete the segments that the ledger has completely; return False if `up_to` is not news."""
        confirmed = self._sources.get(source)
        if confirmed is None or up_to <= confirmed.mark:
            return False
        own = confirmed is self._own
        if own and up_to > confirmed.last:
            log.error("confirmation_ignored", reason="not written yet", source=source, mark=up_to, last=confirmed.last)
            return False
        up_to = min(up_to, confirmed.last)
        self.pending -= up_to - confirmed.mark
        confirmed.mark = up_to
        while confirmed.segments and confirmed.segments[0].last <= up_to:
            if own and len(confirmed.segments) == 1:
                if confirmed.segments[0].size_bytes < self._segment_bytes // 4:
                    break  # keep the current segment until it is worth a new file
                self._close_file()
            segment = confirmed.segments.popleft()
            segment.path.unlink(missing_ok=True)
            segment.deleted = True
            self.size_bytes -= segment.size_bytes
        if not own and not confirmed.segments:
            del self._sources[source]
        return True

    def close(self) -> None:
        """Write the buffer and close. Events that the disk refuses even now are lost."""
        self.write_pending()
        if self._buffer:
            log.error("usage_events_lost", events=len(self._buffer), error=self._write_fault)
            self._buffer.clear()
        self._close_file()
        os.close(self._lock)

    def _write(self) -> None:
        """Write one batch, about what fits in the segment and in `WRITE_BYTES`.

        Raises:
            OSError: not all of it was written.
        """
        if self._file is None or self._own.segments[-1].size_bytes >= self._segment_bytes:
            self._file = self._open_segment()
        segment, batch = self._own.segments[-1], []
        room = min(self._segment_bytes - segment.size_bytes, WRITE_BYTES)
        for record in self._buffer:
            batch.append(record)
            room -= len(record)
            if room <= 0:
                break
        # At a fixed offset, not appended: the next write overwrites what a failed one left behind.
        written = os.pwrite(self._file, b"".join(batch), segment.size_bytes)
        for record in batch:
            written -= len(record)
            if written < 0:
                os.ftruncate(self._file, segment.size_bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._buffer.popleft()
            segment.size_bytes += len(record)
            self.size_bytes += len(record)
            segment.last = self._own.last = self._own.last + 1

    def _open_segment(self) -> int:
        seq = self._own.last + 1
        path = self._folder / f"{token(self.source)}.{seq:012d}.log"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._close_file()
        self._own.segments.append(Segment(path, first=seq, last=seq - 1, size_bytes=0, durable_bytes=0))
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def _describe(before: str | None, error: OSError) -> str:
        """Return the reason of the error, and log it unless it is the same as `before`."""
        reason = error.strerror or str(error)
        if before != reason:
            log.error("outbox_write_failed", error=reason)
        return reason


def _locate(source: _Source, cursor: Cursor) -> tuple[Segment, int] | None:
    """Return where to read on; None if nothing more is synced."""
    segment = cursor.segment
    if segment is None or segment.deleted:
        following = next((s for s in source.segments if s.last > cursor.seq), None)
        return (following, following.offset_after(cursor.seq)) if following else None
    if cursor.offset < segment.durable_bytes:
        return segment, cursor.offset
    # A segment may be partly synced: what follows must wait, or the order would be lost.
    following = next((s for s in source.segments if s.first > segment.first), None)
    return (following, 0) if following and segment.durable_bytes == segment.size_bytes else None
