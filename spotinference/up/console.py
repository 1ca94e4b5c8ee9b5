"""Our standard output and standard error, written so that nobody has to read them."""

import os
import threading
import time
from collections import deque

QUEUE_BYTES = 1024**2
"""Not written yet, while nobody reads; what comes beyond it is dropped."""


class Console:
    """Writes to a descriptor from a thread of its own: `write` never blocks, whether anybody reads or not."""

    def __init__(self, descriptor: int, *, queue_bytes: int = QUEUE_BYTES) -> None:
        self._descriptor = descriptor
        self._queue_bytes = queue_bytes
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self.dropped = 0
        """Bytes, in all."""
        # A daemon: one that is blocked in its write does not keep the process from ending.
        threading.Thread(target=self._run, name=f"console {descriptor}", daemon=True).start()

    def write(self, data: bytes) -> None:
        """Queue whole lines, or drop them all where the queue is full."""
        with self._changed:
            if self._size + len(data) > self._queue_bytes:
                self.dropped += len(data)
                return
            self._chunks.append(data)
            self._size += len(data)
            self._changed.notify_all()

    def line(self, text: str) -> None:
        self.write(f"{text}\n".encode())

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, for `seconds` at most."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._size and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _run(self) -> None:
        said = 0
        while True:
            with self._changed:
                while not self._chunks:
                    self._changed.wait()
                data, dropped = self._chunks[0], self.dropped
            if dropped != said:
                self._write(f"spotinference: {dropped - said} bytes were not shown: nobody read them\n".encode())
                said = dropped
            self._write(data)
            with self._changed:
                self._chunks.popleft()
                self._size -= len(data)
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return  # whoever read has gone, or the disk behind it is full
