"""A client's transport that a test plays, and what it sends and reads."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from services.gateway.adapters.http.client_connection import ClientConnection

SECRET = "sk-front"
MOST_TURNS = 300
"""Of the event loop, for what takes some ten."""
_SOCKET = socket.socket(socket.AF_UNIX)
"""Asked for options and what the kernel holds: nothing."""


class Fault(Exception):
    """One that nobody foresaw."""


async def until(is_so: Callable[[], object]) -> None:
    """Return once it is so: soon, for nothing here waits for another process."""
    for _ in range(MOST_TURNS):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it has not come about")


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Response(NamedTuple):
    """`head` is in lower case."""

    status: int
    head: bytes
    body: bytes


def responses(data: bytes, methods: Sequence[str] = ()) -> list[Response]:
    """Read responses, one behind the other, of which each is complete. `methods` are those of the requests."""
    results: list[Response] = []
    at = 0
    while at < len(data):
        end = data.index(b"\r\n\r\n", at) + 4
        head, body, at = data[at:end].lower(), b"", end
        if methods and methods[len(results)] == "HEAD":
            assert b"content-length: " in head
        elif b"transfer-encoding: chunked\r\n" in head:
            body, at = _unchunked(data, at)
        elif b"content-length: " in head:
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert len(data) >= at + length
            body, at = data[at : at + length], at + length
        status = int(head.split(b" ", 2)[1])
        if status >= 200:
            results.append(Response(status, head, body))
    return results


def _unchunked(data: bytes, at: int) -> tuple[bytes, int]:
    chunks: list[bytes] = []
    while True:
        line = data.index(b"\r\n", at)
        start = line + 2
        stop = start + int(data[at:line], 16)
        at = stop + 2
        assert data[stop:at] == b"\r\n"
        if start == stop:
            return b"".join(chunks), at
        chunks.append(data[start:stop])


class Wire:
    """A transport, and the client at its other end."""

    def __init__(self, address: str = "192.0.2.1") -> None:
        self.written = bytearray()
        self.paused = self.closing = self.aborted = self.has_eof = False
        self.unsent = 0
        self.protocol: ClientConnection
        self.breaks = False
        self._address = address

    def connect(self, protocol: ClientConnection) -> "Wire":
        self.protocol = protocol
        protocol.connection_made(cast("asyncio.Transport", self))
        return self

    def get_extra_info(self, name: str) -> object:
        return {"peername": (self._address, 1), "socket": _SOCKET}.get(name)

    def write(self, data: bytes) -> None:
        if self.breaks:
            raise Fault("write")
        assert not self.has_eof, "written behind the end"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def lose(self) -> None:
        """It has broken: what comes of that comes at once."""
        self.closing = True
        self.protocol.connection_lost(None)

    # The client.

    def send(self, data: bytes) -> None:
        if not self.closing:
            self.protocol.data_received(data)

    async def send_slowly(self, *reads: bytes) -> None:
        """Send each where reading goes on."""
        for data in reads:
            await until(lambda: self.closing or self.has_eof or not self.paused)
            self.send(data)

    @property
    def responses(self) -> list[Response]:
        return responses(bytes(self.written))


def post(body: bytes = b'{"model":"m"}', *headers: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    lines = (
        b"POST %b HTTP/1.1" % path,
        b"Host: x",
        b"Authorization: Bearer " + SECRET.encode(),
        b"Content-Length: %d" % len(body),
        *headers,
    )
    return b"\r\n".join((*lines, b"", body))
