"""An engine that is up within some hundredths of a second and keeps a log of its own life: `python -S -E` runs it.

Every answer takes `--work` seconds, a stream's in ten pieces. The log has a line for each start, first readiness and
SIGTERM: the word, the process id, the time, and how many requests were under way. Standard library only.
"""

import argparse
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

PIECES = 10
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
STREAM_HEAD = HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": PIECES, "total_tokens": 5 + PIECES}


def whole(value: object) -> bytes:
    body = json.dumps(value).encode()
    return HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body


def event(value: object) -> bytes:
    data = b"data: " + (value.encode() if isinstance(value, str) else json.dumps(value).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def piece(number: int) -> bytes:
    return event({"id": "c", "choices": [{"index": 0, "delta": {"content": f" w{number}"}, "finish_reason": None}]})


@dataclass
class Log:
    path: str

    def note(self, word: str, under_way: int = 0) -> None:
        """One write: several engines may share the file."""
        line = f"{word} {os.getpid()} {time.time():.6f} {under_way}\n".encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line)
        os.close(descriptor)


class Engine:
    def __init__(self, port: int, work: float, stream: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._work = work
        self._stream = stream
        self._poll = selectors.DefaultSelector()
        self._poll.register(self._listener, selectors.EVENT_READ)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.under_way = 0

    def run(self, ended: Callable[[], bool]) -> None:
        while not ended():
            pause = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else 0.2
            for key, _ in self._poll.select(min(pause, 0.2)):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.fileobj, key.data)  # type: ignore[arg-type]  # only sockets are registered
            while self._timers and self._timers[0][0] <= time.monotonic():
                heappop(self._timers)[2]()

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._timers, (time.monotonic() + seconds, self._number, do))

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(sock, selectors.EVENT_READ, bytearray())

    def _read(self, sock: socket.socket, have: bytearray) -> None:
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(sock)
            sock.close()
            return
        have += data
        end = have.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        lines = bytes(have[:end]).lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(have) < end + length:
            return
        body = bytes(have[end : end + length])
        del have[: end + length]
        if not body:
            if lines[0].startswith(b"get /metrics "):
                page = b"vllm:num_requests_running %d\n" % self.under_way
                sock.sendall(HEAD % b"text/plain" + b"content-length: %d\r\n\r\n" % len(page) + page)
            else:
                sock.sendall(whole({"data": []}))
            return
        self.under_way += 1
        self._answer(sock, streamed=bool(json.loads(body).get("stream")))

    def _answer(self, sock: socket.socket, *, streamed: bool) -> None:
        if not streamed:
            message = {"role": "assistant", "content": "w"}
            answer = whole({"id": "c", "choices": [{"index": 0, "message": message, "text": "w"}], "usage": USAGE})
            self._later(self._work, lambda: self._end(sock, answer))
            return
        self._send(sock, STREAM_HEAD)
        for number in range(PIECES):
            data = piece(number)
            self._later(self._stream * number / PIECES, lambda data=data: self._send(sock, data))  # type: ignore[misc]  # bound now
        last = event({"id": "c", "choices": [], "usage": USAGE}) + event("[DONE]") + b"0\r\n\r\n"
        self._later(self._stream, lambda: self._end(sock, last))

    def _end(self, sock: socket.socket, data: bytes) -> None:
        self._send(sock, data)
        self.under_way -= 1

    def _send(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.sendall(data)
        except OSError:
            return  # the reader notices


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--load", type=float, default=0.0, help="seconds until it listens")
    parser.add_argument("--spread", type=float, default=0.0, help="and up to so many more")
    parser.add_argument("--work", type=float, default=0.02, help="seconds that an answer takes")
    parser.add_argument("--stream", type=float, help="the same of a stream; as the others by default")
    parser.add_argument("--end", type=float, default=0.0, help="seconds from SIGTERM to its end")
    arguments = parser.parse_args()
    log = Log(arguments.log)
    log.note("start")
    engine: Engine | None = None
    ends_at = float("inf")

    def on_term(*_: object) -> None:
        nonlocal ends_at
        log.note("term", engine.under_way if engine else 0)
        ends_at = min(ends_at, time.monotonic() + arguments.end)

    signal.signal(signal.SIGTERM, on_term)
    loaded_at = time.monotonic() + arguments.load + arguments.spread * (time.time() % 1.0)
    while (now := time.monotonic()) < min(loaded_at, ends_at):
        time.sleep(min(0.05, max(0.0, loaded_at - now)))
    if time.monotonic() < ends_at:
        engine = Engine(
            arguments.port, arguments.work, arguments.work if arguments.stream is None else arguments.stream
        )
        log.note("ready")
        engine.run(lambda: time.monotonic() >= ends_at)
    log.note("end", engine.under_way if engine else 0)


if __name__ == "__main__":
    main()
