"""What one turn of the event loop has to say, said at its end, all at once.

A write to a socket wakes whoever sleeps at its other end, on another core, which costs several times what the bytes do.
The second write to one who is awake costs little: so everything that the reads of a turn lead to goes out together.
"""

import asyncio

MOST_BYTES = 64 * 1024
"""Then it goes out at once: a transport that is full must say so before more is made for it."""


class Turn:
    """`write` in any order; `flush` for what has to be out now, such as before a connection is closed."""

    __slots__ = ("_bytes", "_queue")

    def __init__(self) -> None:
        self._queue: list[tuple[asyncio.Transport, bytes | memoryview]] = []
        self._bytes = 0

    def write(self, transport: asyncio.Transport, data: bytes | memoryview) -> None:
        if not self._queue:
            asyncio.get_running_loop().call_soon(self.flush)
        self._queue.append((transport, data))
        self._bytes += len(data)
        if self._bytes > MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """What is for a transport that has closed meanwhile is for nobody."""
        queue, self._queue = self._queue, []
        self._bytes = 0
        for transport, data in queue:
            if not transport.is_closing():
                transport.write(data)
