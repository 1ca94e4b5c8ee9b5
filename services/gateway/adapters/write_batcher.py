"""Collects the socket writes of one event loop iteration, and makes them together at its end.

A write to a socket wakes the process at the other end, on another core, which costs several times what the bytes cost.
A second write to an awake process costs little, so all writes of an iteration go out together.
"""

import asyncio
from collections.abc import Callable

MAX_QUEUED_BYTES = 64 * 1024
"""A longer queue goes out at once: a full transport must signal that before more is produced for it."""


def _do_nothing() -> None:
    """Do nothing before a flush."""


class WriteBatcher:
    """Queues writes. Call `flush` if they must go out now, such as before a connection is closed.

    Arguments:
        before_flush: called once per flush, before anything is written to a transport. It must not raise.
    """

    __slots__ = ("_before_flush", "_loop", "_queue", "_size_bytes")

    def __init__(self, before_flush: Callable[[], None] = _do_nothing) -> None:
        self._before_flush = before_flush
        self._queue: list[tuple[asyncio.Transport, bytes | memoryview]] = []
        self._size_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """Looked up once: each lookup takes a system call."""

    def write(self, transport: asyncio.Transport, data: bytes | memoryview) -> None:
        if not self._queue:
            self._loop = self._loop or asyncio.get_running_loop()
            self._loop.call_soon(self.flush)
        self._queue.append((transport, data))
        self._size_bytes += len(data)
        if self._size_bytes > MAX_QUEUED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write everything now; drop what is for a transport that has closed meanwhile."""
        self._before_flush()
        queue, self._queue = self._queue, []
        self._size_bytes = 0
        for transport, data in queue:
            if not transport.is_closing():
                transport.write(data)
