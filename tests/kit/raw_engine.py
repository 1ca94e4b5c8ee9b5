"""An upstream that answers with whatever bytes a test wants: slow, silent, broken, or no HTTP at all.

`tests.kit.scripted_engine` is for what an engine says; this is for how its bytes come.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tests.kit.waiting import PATIENCE_SECONDS

EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"w"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

Play = Callable[["EngineSide"], Awaitable[None]]
"""Answers one request. Afterwards the connection is kept for the next one, unless it was closed."""


def whole(body: bytes = b'{"object":"chat.completion","choices":[]}', *headers: bytes) -> bytes:
    """An honest answer."""
    lines = (b"HTTP/1.1 200 OK", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join((*lines, b"", body))


class EngineSide:
    """The engine's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def closed(self) -> bool:
        return self._writer.is_closing()

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def left(self) -> None:
        """Returns once the other side has closed or reset the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionError):
                while await self._reader.read(65536):
                    pass

    async def request(self, *, whole: bool) -> bytes | None:
        """The next request, or no more than its head; None: there is none any more."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            if not whole:
                return head
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            return head + await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


class RawEngine:
    """Made by `raw_engine`. `requests` are those that it has read, `connections` counts all.

    `reads_whole`: false, and it answers as soon as it has a request's head.
    """

    def __init__(self, play: Play) -> None:
        self.base_url = ""
        self.requests: list[bytes] = []
        self.connections = 0
        self.play = play
        self.reads_whole = True
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Connections that neither side has closed."""
        return len(self._tasks)

    def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(EngineSide(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, side: EngineSide) -> None:
        try:
            while not side.closed and (request := await side.request(whole=self.reads_whole)) is not None:
                self.requests.append(request)
                with suppress(ConnectionError):
                    await self.play(side)
        finally:
            side.close()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def raw_engine(play: Play) -> AsyncIterator[RawEngine]:
    """A running one."""
    engine = RawEngine(play)
    server = await asyncio.start_server(engine.on_connection, "127.0.0.1", 0)
    engine.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield engine
    finally:
        server.close()
        await engine.end()
        await server.wait_closed()
