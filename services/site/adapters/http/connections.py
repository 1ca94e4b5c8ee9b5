"""Bounds client connections: how many there are, and how long one may take to ask and to read."""

import asyncio
import resource
from typing import Any

from aiohttp import web

from services.site.adapters.http.headers import add_headers

MOST_CONNECTIONS = 2000
"""In this process. A further one replaces the one that has been waiting for a request the longest."""
OWN_FILES = 100
"""File descriptors for the bus, the database, the logs and the providers of sign-ins."""
FIRST_REQUEST_S = 30.0
"""How long a new connection may take for its first request's head. aiohttp bounds the later ones."""
SEND_S = 30.0
"""How long a client may take to read a page to the part that the kernel buffers."""


class Connections:
    """All connections of one server."""

    def __init__(self, most: int | None = None) -> None:
        self._most = min(MOST_CONNECTIONS, _most_by_files()) if most is None else most
        self._all: set[ClientConnection] = set()
        self._waiting: dict[ClientConnection, None] = {}
        """Connections without a request, in the order in which they began to wait."""

    def admit(self, connection: "ClientConnection") -> bool:
        """Return whether a new connection is admitted."""
        if len(self._all) >= self._most:
            longest = next(iter(self._waiting), None)
            if longest is None:
                return False
            self.discard(longest)
            longest.abort()
        self._all.add(connection)
        self._waiting[connection] = None
        return True

    def discard(self, connection: "ClientConnection") -> None:
        self._all.discard(connection)
        self._waiting.pop(connection, None)

    def on_request(self, connection: "ClientConnection") -> None:
        self._waiting.pop(connection, None)

    def on_response(self, connection: "ClientConnection") -> None:
        if connection in self._all:
            self._waiting[connection] = None


class ClientConnection(web.RequestHandler):
    """One connection."""

    def __init__(self, server: web.Server, connections: Connections, *, is_https: bool, **settings: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._connections = connections
        self._is_https = is_https
        self._first: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._connections.admit(self):
            transport.abort()  # type: ignore[attr-defined]  # a socket's transport is an asyncio.Transport
            return
        super().connection_made(transport)
        self._first = asyncio.get_running_loop().call_later(FIRST_REQUEST_S, self.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        self._cancel_first()
        super().connection_lost(exc)

    def on_request(self) -> None:
        """Note that the head of a request has arrived. The server's middleware calls this."""
        self._cancel_first()
        self._connections.on_request(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response, as long as the client reads it."""
        try:
            async with asyncio.timeout(SEND_S):
                finished = await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self.abort()
            return resp, True
        self._connections.on_response(self)
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it echoes what was sent
    ) -> web.StreamResponse:
        """Answer what is no request with the headers of every response, and with nothing of what was sent."""
        response = super().handle_error(request, status, exc, "This request cannot be read.")
        add_headers(response, is_https=self._is_https)
        return response

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _cancel_first(self) -> None:
        if self._first is not None:
            self._first.cancel()
            self._first = None


def _most_by_files() -> int:
    """Return how many clients the limit of open files allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, soft - OWN_FILES)
