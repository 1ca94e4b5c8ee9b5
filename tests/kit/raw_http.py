"""An HTTP client for tests that sends exactly the bytes it is given, and sees exactly what comes of them.

No library lets a test send half a request, two lengths or a byte at a time, or tells a clean end from a reset.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.kit.waiting import PATIENCE_SECONDS

READ_BYTES = 65536


@dataclass(frozen=True)
class Answer:
    """One whole answer. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object; `KeyError` or `ValueError` where it is none."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error

    @property
    def code(self) -> str:
        return str(self.error["code"])


class Cut(Exception):
    """The other side ended the connection in the middle of an answer; the argument is what had come of it."""


class RawConnection:
    """One TCP connection. Sending and reading know nothing of each other, as in the kernel."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    async def send(self, *parts: bytes) -> None:
        """`ConnectionError` once the other side takes no more."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            for part in parts:
                await self._loop.sock_sendall(self._sock, part)

    def finish(self) -> None:
        """Send no more, and go on to read."""
        self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Reset the connection, as a killed process does."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def close(self) -> None:
        self._sock.close()

    async def answer(self, *, bodyless: bool = False, seconds: float = PATIENCE_SECONDS) -> Answer | None:
        """The next answer, an interim one too; None: the other side closed in order before it began.

        `bodyless`: it answers a HEAD. `Cut`, `ConnectionResetError` and `TimeoutError` say how it failed to come.
        """
        async with asyncio.timeout(seconds):
            return await self._answer(bodyless=bodyless)

    async def until_end(self, *, seconds: float = PATIENCE_SECONDS) -> bytes:
        """All that comes until the other side closes in order; `ConnectionResetError`: it did not."""
        async with asyncio.timeout(seconds):
            return await self._until_end()

    async def take(self, most: int = READ_BYTES) -> bytes:
        """What comes next, so much at most; nothing once the other side has closed in order."""
        data, self._rest = self._rest[:most], self._rest[most:]
        async with asyncio.timeout(PATIENCE_SECONDS):
            return data or await self._loop.sock_recv(self._sock, most)

    async def until(self, delimiter: bytes, *, seconds: float = PATIENCE_SECONDS) -> bytes:
        """What comes up to and with `delimiter`."""
        async with asyncio.timeout(seconds):
            return await self._until(delimiter)

    async def _answer(self, *, bodyless: bool) -> Answer | None:
        try:
            head = await self._until(b"\r\n\r\n")
        except Cut as cut:
            if cut.args == (b"",):
                return None
            raise
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        assert len(headers) == len(pairs), f"a header comes twice: {head!r}"
        status = int(first.split(" ", 2)[1])
        if bodyless or status < 200 or status in {204, 304}:
            return Answer(status, headers, b"")
        if "chunked" in headers.get("transfer-encoding", ""):
            return Answer(status, headers, await self._chunks())
        length = headers.get("content-length")
        body = await self._until_end() if length is None else await self._exactly(int(length))
        return Answer(status, headers, body)

    async def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while size := int(await self._until(b"\r\n"), 16):
            parts.append(await self._exactly(size))
            assert await self._exactly(2) == b"\r\n"
        assert await self._exactly(2) == b"\r\n"
        return b"".join(parts)

    async def _until(self, delimiter: bytes) -> bytes:
        while (at := self._rest.find(delimiter)) < 0:
            await self._more()
        return self._take(at + len(delimiter))

    async def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            await self._more()
        return self._take(size)

    async def _until_end(self) -> bytes:
        while data := await self._loop.sock_recv(self._sock, READ_BYTES):
            self._rest += data
        return self._take(len(self._rest))

    async def _more(self) -> None:
        data = await self._loop.sock_recv(self._sock, READ_BYTES)
        if not data:
            raise Cut(self._rest)
        self._rest += data

    def _take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


@asynccontextmanager
async def connected(url: str, source: str = "", *, receive_buffer: int = 0) -> AsyncIterator[RawConnection]:
    """A connection to the origin `url`, closed afterwards.

    `source`: the address that it comes from. `receive_buffer`: what the system takes before it is read; 0: its own.
    """
    parts = urlsplit(url)
    sock = socket.socket(socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if source:
        sock.bind((source, 0))
    connection = RawConnection(sock)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        yield connection
    finally:
        connection.close()


def head(method: str, target: str, *headers: str, version: str = "HTTP/1.1") -> bytes:
    """A request's head; each of `headers` is a line."""
    return "\r\n".join((f"{method} {target} {version}", "Host: test", *headers, "", "")).encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
