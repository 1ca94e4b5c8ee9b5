"""The load: plays clients over kept-alive connections and checks every answer. A process of its own.

Reads one `Cell` per line, runs it and writes one `Told`; ends with its input. Durations are seconds.
"""

import asyncio
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, cast

import msgspec
import uvloop

from bench import shapes

WARM_UP = 0.5
"""Before latencies count: connections are opened, caches filled."""
LATE_SECONDS = 30.0
"""For the last answers after the end: an answer that is later is lost."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_OK = b"HTTP/1.1 200"
_END = b"\r\n" + shapes.LAST_CHUNK  # with what ends the chunk before: a head may end in a 0, too
_FIRST = b'"content":" w1"'


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and to whom."""

    kind: Literal["closed", "paced", "streams"]
    """Each connection asks as soon as it is answered; at a fixed rate, come what may; as the first, but streams."""
    port: int
    key: str
    model: str
    seconds: float
    connections: int
    rate: float = 0.0
    """Requests per second; only `paced`."""
    tokens: int = 0
    """Per stream; 0 for none."""
    interval_ms: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. Everything asked was answered, and well, unless `fault` says otherwise."""

    requests: int = 0
    tokens: int = 0
    rate: float = 0.0
    """Answers per second after the warm-up."""
    latencies: list[float] = msgspec.field(default_factory=list)
    """Of requests asked after the warm-up; of streams, the time to the first token."""
    fault: str | None = None


class Client(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, cell: Cell, on_answer: "Callable[[Client], None]", on_fault: Callable[[str], None]) -> None:
        self._cell = cell
        self._on_answer = on_answer
        self._on_fault = on_fault
        self._request = shapes.request(
            host=f"127.0.0.1:{cell.port}",
            key=cell.key,
            model=cell.model,
            tokens=cell.tokens,
            interval_ms=cell.interval_ms,
        )
        self._buffer = bytearray()
        self.begun = 0.0
        self.latency = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_fault(f"connection lost: {exc}")

    def ask(self, begun: float) -> None:
        self._buffer.clear()
        self.begun, self.latency = begun, 0.0
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._buffer.startswith(_OK):
            self._on_fault(f"not status 200: {bytes(self._buffer[:600])!r}")
        elif self._cell.tokens:
            self._stream_grew()
        else:
            self._whole_grew()

    def _stream_grew(self) -> None:
        if not self.latency and _FIRST in self._buffer:
            self.latency = time.perf_counter() - self.begun
        if self._buffer.endswith(_END):
            self._done(shapes.stream_fault(bytes(self._buffer), self._cell.tokens))

    def _whole_grew(self) -> None:
        head_end = self._buffer.find(b"\r\n\r\n")
        length = _LENGTH.search(self._buffer, 0, head_end) if head_end > 0 else None
        if length is not None and len(self._buffer) >= head_end + 4 + int(length[1]):
            self.latency = time.perf_counter() - self.begun
            self._done(shapes.whole_fault(bytes(self._buffer)))

    def _done(self, fault: str | None) -> None:
        self._on_fault(fault) if fault else self._on_answer(self)


class Load:
    """One cell under way."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._idle: deque[Client] = deque()
        self._waiting: deque[float] = deque()
        self._asked = self._answered = self._answered_warm = 0
        self._latencies: list[float] = []

    async def run(self) -> Told:
        cell = self._cell
        clients = []
        for _ in range(cell.connections):
            _, client = await self._loop.create_connection(self._client, "127.0.0.1", cell.port)
            clients.append(client)
        self._begun = time.perf_counter()
        self._warm_at = self._begun + WARM_UP
        self._stop_at = self._warm_at + cell.seconds
        if cell.kind == "paced":
            self._idle.extend(clients)
            self._tick(self._loop.time(), 0)
        else:
            # Streams begin evenly spread over the length of one, so that their tokens do not come in bursts.
            spread = cell.tokens * cell.interval_ms / 1000 / cell.connections
            for number, client in enumerate(clients):
                self._loop.call_later(number * spread, self._ask, client)
        try:
            async with asyncio.timeout(WARM_UP + cell.seconds + LATE_SECONDS):
                await self._ended
        except TimeoutError:
            return Told(fault=f"{self._asked - self._answered} of {self._asked} requests were never answered")
        except ValueError as error:
            return Told(fault=str(error))
        finally:
            for client in clients:
                client.transport.abort()
        return Told(
            requests=self._answered,
            tokens=self._answered * (cell.tokens or shapes.WHOLE_TOKENS),
            rate=self._answered_warm / cell.seconds,
            latencies=self._latencies,
        )

    def _client(self) -> Client:
        return Client(self._cell, self._on_answer, self._on_fault)

    def _ask(self, client: Client, begun: float | None = None) -> None:
        self._asked += 1
        client.ask(time.perf_counter() if begun is None else begun)

    def _tick(self, begun: float, number: int) -> None:
        now = time.perf_counter()
        if now < self._stop_at:
            if self._idle:
                self._ask(self._idle.popleft())
            else:
                self._waiting.append(now)
            self._loop.call_at(begun + (number + 1) / self._cell.rate, self._tick, begun, number + 1)
        elif self._asked == self._answered:
            self._end()

    def _on_answer(self, client: Client) -> None:
        now = time.perf_counter()
        self._answered += 1
        self._answered_warm += self._warm_at <= now < self._stop_at
        if client.begun >= self._warm_at:
            self._latencies.append(client.latency)
        if self._cell.kind != "paced" and now < self._stop_at:
            self._ask(client)
        elif self._waiting:
            self._ask(client, self._waiting.popleft())
        else:
            self._idle.append(client)
        if now >= self._stop_at and self._asked == self._answered:
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _on_fault(self, fault: str) -> None:
        if not self._ended.done():
            self._ended.set_exception(ValueError(fault))


async def _run(cell: Cell) -> Told:
    return await Load(cell).run()


def main() -> None:
    for line in sys.stdin:
        told = uvloop.run(_run(msgspec.json.decode(line, type=Cell)))
        print(msgspec.json.encode(told).decode(), flush=True)


if __name__ == "__main__":
    main()
