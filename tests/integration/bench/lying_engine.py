"""Stands between load and engine and changes what the engine says: what the load must not believe."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.build import compile_program
from bench.cluster import SERVED_AS
from bench.processes import child

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class LyingEngine:
    """Replaces `change[0]` by `change[1]`, of the same length, in each answer; `stall` seconds before the first."""

    engine_port: int
    change: tuple[bytes, bytes] = (b"", b"")
    cut: bool = False
    """Close in the middle of the answer."""
    stall: float = 0.0
    port: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_connection("127.0.0.1", self.engine_port)
        try:
            while True:
                engine_writer.write(await _message(reader))
                answer = await _message(engine_reader)
                stall, self.stall = self.stall, 0.0
                await asyncio.sleep(stall)
                answer = answer.replace(*self.change) if self.change[0] else answer
                writer.write(answer[: len(answer) // 2] if self.cut else answer)
                if self.cut:
                    return
        except asyncio.IncompleteReadError:
            pass  # the load has gone
        finally:
            writer.close()
            engine_writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if length := _LENGTH.search(head):
        return head + await reader.readexactly(int(length[1]))
    return head + await reader.readuntil(b"\r\n0\r\n\r\n")


@asynccontextmanager
async def engine_port(folder: Path, *words: str) -> AsyncIterator[int]:
    async with engine_process(folder, *words) as (port, _):
        yield port


@asynccontextmanager
async def engine_process(folder: Path, *words: str) -> AsyncIterator[tuple[int, int]]:
    """The engine's port and process id."""
    async with child(str(compile_program("engine")), SERVED_AS, *words, log=folder / "engine.log") as engine:
        assert engine.stdout is not None
        yield int(await engine.stdout.readline()), engine.pid


@asynccontextmanager
async def running_lying_engine(
    folder: Path, change: tuple[bytes, bytes] = (b"", b""), **how: float
) -> AsyncIterator[LyingEngine]:
    async with AsyncExitStack() as stack:
        lying_engine = LyingEngine(await stack.enter_async_context(engine_port(folder)), change, **how)  # type: ignore[arg-type]  # cut or stall
        server = await stack.enter_async_context(await asyncio.start_server(lying_engine.serve, "127.0.0.1", 0))
        lying_engine.port = int(server.sockets[0].getsockname()[1])
        yield lying_engine
