"""The log files below the data directory: copied to our standard error as they grow, and rotated when they are large.

The services write to them by themselves, so that none depends on our reading. That is why a file is rotated by copying
and emptying it: who writes goes on, at its new beginning. A line that is written in between is lost.
"""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

LOOK_SECONDS = 0.2
MAX_BYTES = 64 * 1024**2
"""Of one file: some 200,000 requests of the access log."""
KEPT = 3
"""Older files of each service. With five services that is 1.25 GiB at most."""
KEPT_OF_ENGINES = 1
"""The waker keeps the log of the engine's run before in the same place."""
COPY_BYTES = 1024**2
"""Shown of one file in one look; what grows faster is cut."""


class LogFiles:
    """`show` gets what the services log, in whole lines; it must not block."""

    def __init__(self, data_dir: Path, show: Callable[[bytes], None], *, max_bytes: int = MAX_BYTES) -> None:
        self._data_dir = data_dir
        self._show = show
        self._max_bytes = max_bytes
        self._offsets = {path: path.stat().st_size for path in self._services()}
        self._looking = threading.Lock()

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Show what is new, then rotate what is large. A disk that refuses is tried again at the next look."""
        with self._looking:
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
            offset = 0  # emptied by somebody else
        if size - offset > COPY_BYTES:
            self._show(f"spotinference: {size - offset - COPY_BYTES} bytes of {path.name} are not shown\n".encode())
            offset = size - COPY_BYTES
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size - offset)
        # The rest of a line that is being written comes with the next look.
        whole = data.rfind(b"\n") + 1 if len(data) < COPY_BYTES else len(data)
        if whole:
            self._show(data[:whole])
        self._offsets[path] = offset + whole

    def _rotate(self, path: Path, kept: int) -> bool:
        """Whether the file was emptied. On a full disk its content is dropped rather than kept for ever."""
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
