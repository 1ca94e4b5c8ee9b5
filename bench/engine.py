"""The engine: answers at once in vLLM's shape, as cheaply as Python can. A process of its own; ends with its input."""

import asyncio
import re
import sys
from functools import cache
from typing import cast

import msgspec
import uvloop

from bench import shapes

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Extra(msgspec.Struct):
    interval_ms: int = 0


class _Body(msgspec.Struct):
    model: str
    stream: bool = False
    stream_options: _StreamOptions = msgspec.field(default_factory=_StreamOptions)
    max_tokens: int = shapes.WHOLE_TOKENS
    vllm_xargs: _Extra = msgspec.field(default_factory=_Extra)


_body = msgspec.json.Decoder(_Body)
_chunks = cache(shapes.stream_chunks)
_WHOLE = shapes.whole_answer()
_HEAD = shapes.stream_head()
_REFUSED = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client. Requests come one after the other, with a content length."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        assert length is not None, self._buffer[:head_end]
        end = head_end + 4 + int(length[1])
        if len(self._buffer) >= end:
            body, self._buffer = self._buffer[head_end + 4 : end], self._buffer[end:]
            self._answer(_body.decode(body))

    def _answer(self, asked: _Body) -> None:
        if asked.model != shapes.SERVED_AS:
            self._transport.write(_REFUSED)
        elif not asked.stream:
            self._transport.write(_WHOLE)
        else:
            options = asked.stream_options
            usage, running = options.include_usage, options.continuous_usage_stats
            chunks = _chunks(asked.max_tokens, include_usage=usage, running_usage=running)
            self._transport.write(_HEAD)
            self._say(chunks, 0, self._loop.time(), asked.vllm_xargs.interval_ms / 1000)

    def _say(self, chunks: list[bytes], number: int, begun: float, interval: float) -> None:
        """Token by token on a fixed grid: one that is late does not move the next."""
        self._transport.write(chunks[number])
        if (number := number + 1) < len(chunks):
            due = begun + number * interval
            self._timer = self._loop.call_at(due, self._say, chunks, number, begun, interval)


async def main() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    loop.add_reader(sys.stdin.fileno(), ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(main())
