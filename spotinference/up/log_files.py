"""The log files in the data directory: copied to our standard error as they grow, and rotated when they are large.

The services write to the files themselves, so that none depends on us reading a pipe. A file is therefore rotated by
copying and truncating it; the service keeps writing at the new beginning. A line written in between is lost.
"""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.2
MAX_BYTES = 64 * 1024**2
"""Bytes of one file: about 200,000 requests in the access log."""
KEPT = 3
"""Older files per service. With five services that is at most 1.25 GiB."""
KEPT_OF_ENGINES = 1
"""The waker keeps the log of the engine's previous run in the same place."""
COPY_BYTES = 1024**2
"""Copied of one file in one poll; what grows faster is cut."""


class LogFiles:
    """Copies and rotates the logs. `show` receives whole lines and must not block."""

    def __init__(self, data_dir: Path, show: Callable[[bytes], None], *, max_bytes: int = MAX_BYTES) -> None:
        self._data_dir = data_dir
        self._show = show
        self._max_bytes = max_bytes
        self._offsets = {path: path.stat().st_size for path in self._services()}
        self._lock = threading.Lock()

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.poll)
            await asyncio.sleep(POLL_SECONDS)

    def poll(self) -> None:
        """Show what is new, then rotate what is large. After a disk error, the next poll tries again."""
        with self._lock:
            for path in self._services():
                with contextlib.suppress(OSError):
                    self._copy(path)
                    if self._rotate(path, KEPT):
                        self._offsets[path] = 0
            for path in (self._data_dir / "machines").glob("*/*.log"):
                with contextlib.suppress(OSError):
                    self._rotate(path, KEPT_OF_ENGINES)

    def _services(self) -> Iterator[Path]:
        yield from sorted((self._data_dir / "logs").glob("*.log"))

    def _copy(self, path: Path) -> None:
        size, offset = path.stat().st_size, self._offsets.get(path, 0)
        if size < offset:
            offset = 0  # truncated by somebody else
        if size - offset > COPY_BYTES:
            self._show(f"spotinference: {size - offset - COPY_BYTES} bytes of {path.name} were skipped\n".encode())
            offset = size - COPY_BYTES
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size - offset)
        # The rest of a line that is being written follows with the next poll.
        whole = data.rfind(b"\n") + 1 if len(data) < COPY_BYTES else len(data)
        if whole:
            self._show(data[:whole])
        self._offsets[path] = offset + whole

    def _rotate(self, path: Path, kept: int) -> bool:
        """Rotate the file if it is too large, and return whether it was. On a full disk, its content is dropped."""
        if path.stat().st_size <= self._max_bytes:
            return False
        older = [path.with_name(f"{path.name}.{number}") for number in range(1, kept + 1)]
        partial = path.with_name(f"{path.name}.new")
        try:
            shutil.copyfile(path, partial)
            for newer, old in zip(reversed(older[:-1]), reversed(older[1:]), strict=True):
                with contextlib.suppress(FileNotFoundError):
                    newer.replace(old)
            partial.replace(older[0])
        finally:
            partial.unlink(missing_ok=True)
            os.truncate(path, 0)
        return True
