"""A way to the bus that can be cut and held."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class BusProxy:
    """While `whole` is not set, bytes lie still in both directions and nobody is told."""

    url: str = ""
    hold_at: bytes | None = None
    """Bytes that clear `whole` instead of passing, once."""
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _pipes: "set[asyncio.Task[None]]" = field(default_factory=set)

    def cut(self) -> None:
        """Reset every connection; new ones are let through."""
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while data := await reader.read(65536):
                if self.hold_at is not None and self.hold_at in data:
                    self.hold_at = None
                    self.whole.clear()
                await self.whole.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
        parts = urlsplit(target)
        try:
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.close()
            return
        for pipe in (self._pass_on(reader, back), self._pass_on(there, writer)):
            task = asyncio.create_task(pipe)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)


@asynccontextmanager
async def bus_proxy(target: str) -> AsyncIterator[BusProxy]:
    made = BusProxy()
    made.whole.set()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await made._join(reader, writer, target)

    server = await asyncio.start_server(joined, "127.0.0.1", 0)
    made.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        pipes = list(made._pipes)
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)
