"""Our standard output and standard error, written without blocking even if nobody reads them."""

import os
import threading
import time
from collections import deque

QUEUE_BYTES = 1024**2
"""Limit of the unwritten data, while nobody reads. What exceeds it is dropped."""


class Console:
    """Writes to a file descriptor from a thread of its own, so that `write` never blocks."""

    def __init__(self, descriptor: int, *, queue_bytes: int = QUEUE_BYTES) -> None:
        self._descriptor = descriptor
        self._queue_bytes = queue_bytes
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self.dropped = 0
        """Bytes dropped in total."""
        # A daemon thread: blocked in a write, it does not keep the process from ending.
        threading.Thread(target=self._run, name=f"console {descriptor}", daemon=True).start()

    def write(self, data: bytes) -> None:
        """Queue whole lines, or drop them all if the queue is full."""
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
        """Wait until everything is written, at most `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._size and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _run(self) -> None:
        reported = 0
        while True:
            with self._changed:
                while not self._chunks:
                    self._changed.wait()
                data, dropped = self._chunks[0], self.dropped
            if dropped != reported:
                self._write(
                    f"spotinference: {dropped - reported} bytes were dropped because nobody read them\n".encode()
                )
                reported = dropped
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
            return  # the reader has ended, or the disk is full
