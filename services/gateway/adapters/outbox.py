"""Usage events on disk: each is written here before anybody else hears of it, and stays until the ledger has it.

One folder of append-only segments, `<source>.<first seq>.log`; a record is a line of its CRC-32 in hex, a space,
and the event's JSON. `append` writes to the page cache, which survives the process; `unsynced` makes it survive
the machine. A damaged or cut last line is dropped with a word in the log, whatever follows a damaged line is kept.
The process holds a lock on the folder: two gateways on one would trim each other's counts.
"""

import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgspec
import structlog

from shared.bus.subjects import name as untoken
from shared.bus.subjects import token
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import UsageEvent

SEGMENT_BYTES = 4 * 1024 * 1024
"""Small enough to be rewritten never and deleted often, large enough that a day is not a thousand files."""

log = structlog.get_logger()


@dataclass
class _Segment:
    path: Path
    source: str
    first: int
    last: int
    """Sequence number of its last record; `first - 1` while it is empty."""
    size: int


class Outbox:
    """The folder. `append` never raises: what cannot be written waits in memory, and `fault` says so until it can.

    Only requests in flight when the disk fills wait there: a gateway with a `fault` takes no new ones.
    """

    def __init__(self, folder: Path, source: str, *, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = self._locked(folder)
        self.source = source
        self._max_bytes = max_bytes
        self._segments: dict[str, deque[_Segment]] = {}
        for path in sorted(folder.glob("*.log")):
            self._adopt(path)
        self._file: int | None = None
        self._next_seq = 1
        self._unwritten: deque[UsageEvent] = deque()
        self._write_fault: str | None = None
        self._synced = 0

    @property
    def fault(self) -> str | None:
        """Why nothing new may be served; None: all is well."""
        if self._write_fault:
            return f"the outbox cannot write: {self._write_fault}: free space in {self._folder}"
        if self.size >= self._max_bytes:
            return f"the outbox has reached its {self._max_bytes} bytes: is the meter running?"
        return None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for queue in self._segments.values() for segment in queue)

    @property
    def pending(self) -> int:
        """Events that the ledger has not confirmed, and a few that share a segment with one."""
        return len(self._unwritten) + sum(s.last - s.first + 1 for queue in self._segments.values() for s in queue)

    @property
    def sources(self) -> list[str]:
        """Every source with something on disk, this boot's own included."""
        return list(self._segments)

    def synced(self, source: str) -> int:
        """Up to which sequence number the disk has it for sure."""
        if source == self.source:
            return self._synced
        queue = self._segments.get(source)
        return queue[-1].last if queue else 0

    def append(self, event: UsageEvent) -> None:
        """Give the event its place in the sequence and write it."""
        numbered = msgspec.structs.replace(event, source=self.source, source_seq=self._next_seq)
        self._next_seq += 1
        self._unwritten.append(numbered)
        self.write_waiting()

    def write_waiting(self) -> None:
        """Write what could not be written before."""
        while self._unwritten:
            event = self._unwritten[0]
            payload = encode(event)
            try:
                self._write(event.source_seq, b"%08x %s\n" % (crc32(payload), payload))
            except OSError as error:
                if self._write_fault is None:
                    log.error("outbox cannot write", error=str(error))
                self._write_fault = error.strerror or str(error)
                return
            self._unwritten.popleft()
        self._write_fault = None

    def unsynced(self) -> Callable[[], int] | None:
        """What a thread has to do, since it may take long: fsync all that is written now; None: nothing.

        It returns the sequence number for `mark_synced`. The descriptor is its own: a new segment may begin meanwhile.
        """
        queue = self._segments.get(self.source)
        if self._file is None or not queue or queue[-1].last <= self._synced:
            return None
        descriptor, last = os.dup(self._file), queue[-1].last

        def job() -> int:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            return last

        return job

    def mark_synced(self, last: int) -> None:
        self._synced = max(self._synced, last)

    def read(self, source: str, after: int) -> Iterator[UsageEvent]:
        """The source's events beyond sequence number `after`, in order."""
        for segment in list(self._segments.get(source, ())):
            if segment.last > after:
                for event in _events(segment.path):
                    if event.source_seq > after:
                        yield event

    def confirm(self, source: str, up_to: int) -> None:
        """The ledger has everything up to here: forget it, segment by segment."""
        queue = self._segments.get(source)
        while queue and queue[0].last <= up_to and queue[0].last >= queue[0].first:
            open_segment = source == self.source and len(queue) == 1
            if open_segment and (self._unwritten or queue[0].size < SEGMENT_BYTES // 4):
                return  # the segment being written is kept until it is worth a new file
            queue[0].path.unlink(missing_ok=True)
            queue.popleft()
            if open_segment:
                self._close_file()
        if queue is not None and not queue:
            del self._segments[source]

    def close(self) -> None:
        self._close_file()
        os.close(self._lock)

    def _write(self, seq: int, record: bytes) -> None:
        queue = self._segments.setdefault(self.source, deque())
        if self._file is None or queue[-1].size >= SEGMENT_BYTES:
            self._open_segment(queue, seq)
        assert self._file is not None
        segment = queue[-1]
        try:
            written = os.write(self._file, record)
            if written < len(record):
                raise OSError(28, "No space left on device")
        except OSError:
            os.ftruncate(self._file, segment.size)
            raise
        segment.size += len(record)
        segment.last = seq

    def _open_segment(self, queue: deque[_Segment], seq: int) -> None:
        if self._file is not None:
            os.fsync(self._file)
            self._close_file()
        path = self._folder / f"{token(self.source)}.{seq:012d}.log"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        queue.append(_Segment(path, self.source, seq, seq - 1, 0))

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _adopt(self, path: Path) -> None:
        """A segment that an earlier boot left."""
        source = untoken(path.name.split(".")[0])
        numbers = [event.source_seq for event in _events(path)]
        if not numbers:
            path.unlink()
            return
        segment = _Segment(path, source, min(numbers), max(numbers), path.stat().st_size)
        self._segments.setdefault(source, deque()).append(segment)
        log.info("outbox adopted", source=source, events=len(numbers))

    @staticmethod
    def _locked(folder: Path) -> int:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Misconfigured(f"{folder}: another gateway uses it: give each its own --data-dir") from None
        return lock


def _events(path: Path) -> Iterator[UsageEvent]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            checksum, _, payload = line.rstrip(b"\n").partition(b" ")
            try:
                if int(checksum, 16) != crc32(payload):
                    raise ValueError("checksum differs")
                yield decode(payload, UsageEvent)
            except (ValueError, Unreadable) as error:
                log.error("outbox record damaged, left out", path=str(path), line=number, error=str(error))
