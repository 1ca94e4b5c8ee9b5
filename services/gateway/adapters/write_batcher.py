"""Collects what one iteration of the event loop writes to sockets, and writes it at the iteration's end.

A write to a socket wakes the process at its other end, on another core, which costs several times what the bytes do.
The second write to a process that is awake costs little, so all writes of an iteration go out together.
"""

import asyncio
from collections.abc import Callable

MAX_QUEUED_BYTES = 64 * 1024
"""Beyond this the queue goes out at once: a full transport must say so before more is made for it."""


def _do_nothing() -> None:
    """Nothing has to happen before a flush."""


class WriteBatcher:
    """`write` in any order; `flush` for what has to be out now, such as before a connection is closed.

    Arguments:
        before_flush: Called once per flush, before anything is written to a transport. It must not raise.
    """

    __slots__ = ("_before_flush", "_loop", "_queue", "_size_bytes")

    def __init__(self, before_flush: Callable[[], None] = _do_nothing) -> None:
        self._before_flush = before_flush
        self._queue: list[tuple[asyncio.Transport, bytes | memoryview]] = []
        self._size_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """Asked for once: each time takes a call of the system."""

    def write(self, transport: asyncio.Transport, data: bytes | memoryview) -> None:
        if not self._queue:
            self._loop = self._loop or asyncio.get_running_loop()
            self._loop.call_soon(self.flush)
        self._queue.append((transport, data))
        self._size_bytes += len(data)
        if self._size_bytes > MAX_QUEUED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write everything now; what is for a transport that has closed meanwhile is dropped."""
        self._before_flush()
        queue, self._queue = self._queue, []
        self._size_bytes = 0
        for transport, data in queue:
            if not transport.is_closing():
                transport.write(data)
