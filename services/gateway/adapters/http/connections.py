"""All client connections: their number, their deadlines, and the clock of the deadlines."""

import asyncio
import resource
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from services.gateway.adapters.http.client_connection import ClientConnection
from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.adapters.http.request_log import RequestLog
from services.gateway.adapters.write_batcher import WriteBatcher
from services.gateway.core.buffer_memory import BufferMemory
from services.gateway.core.errors import ApiError
from shared.config.sections import GatewaySection

TICK_SECONDS = 0.25
"""Precision of the deadlines: much finer than the shortest of them."""
MAX_STEP_SECONDS = 1.0
"""How far one tick advances the clock: a stall of this process counts against nobody."""
OWN_FILES = 64
"""File descriptors for the bus, the outbox, the logs and connections that are being accepted."""


class Connections:
    """Bounds the connections, and owns the clock `now`, in seconds. The owner calls `tick` every `TICK_SECONDS`."""

    def __init__(
        self,
        settings: GatewaySection,
        memory: BufferMemory,
        batcher: WriteBatcher,
        *,
        open_response: Callable[[web.BaseRequest], ClientResponse],
        log: RequestLog,
        monotonic: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.memory = memory
        self.batcher = batcher
        self.max_total = min(settings.max_connections, _max_clients_by_files(settings.max_connections))
        self.max_per_address = settings.max_connections_per_address or max(1, self.max_total // 2)
        self.now = 0.0
        self._open_response = open_response
        self._log = log
        self._monotonic = monotonic
        self._ticked_at = monotonic()
        self._all: set[ClientConnection] = set()
        self._idle: dict[ClientConnection, None] = {}
        """Connections without a request; the one that has been idle longest comes first."""
        self._by_address: Counter[str] = Counter()
        self._is_leaving = False
        self._discarded = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    @property
    def unread(self) -> int:
        """Number of complete responses that clients have not read yet."""
        return sum(connection.unread for connection in self._all)

    def tick(self) -> None:
        ticked_at = self._monotonic()
        self.now += min(MAX_STEP_SECONDS, ticked_at - self._ticked_at)
        self._ticked_at = ticked_at
        for connection in [connection for connection in self._all if connection.deadline <= self.now]:
            connection.expire()

    # From a connection.

    def admit(self, connection: ClientConnection) -> bool:
        """Return whether a new connection is admitted; an idle one may be closed to make room."""
        address = connection.address
        of_address = self._by_address[address] >= self.max_per_address
        if of_address or len(self._all) >= self.max_total:
            longest = next((idle for idle in self._idle if not of_address or idle.address == address), None)
            if longest is None:
                return False
            self.discard(longest)
            longest.abort()
        self._all.add(connection)
        self._idle[connection] = None
        self._by_address[address] += 1
        return True

    def discard(self, connection: ClientConnection) -> None:
        if connection not in self._all:
            return
        self._all.discard(connection)
        self._idle.pop(connection, None)
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]
        self._discarded.set()

    def on_busy(self, connection: ClientConnection) -> None:
        """Note that the connection has a request."""
        self._idle.pop(connection, None)

    def on_idle(self, connection: ClientConnection) -> None:
        """Note that the connection's request has been answered."""
        if connection in self._all:
            self._idle[connection] = None
            if self._is_leaving:
                connection.close_gracefully()

    def respond_with_error(self, request: web.BaseRequest, error: ApiError) -> ClientResponse:
        """Respond to a request that reached no handler: with the fault of its head, if it has one, or with `error`."""
        response = self._open_response(request)
        try:
            response.check_head()
        except ApiError as fault:
            error = fault.without_traceback()
        self._log.write(response, error.status, error.code)
        response.fail(error)
        return response

    # From the drain.

    def close_idle(self) -> None:
        """Close idle connections now, and the others once their requests have been answered."""
        self._is_leaving = True
        for connection in list(self._idle):
            if connection.is_idle:
                connection.close_gracefully()

    async def close(self, seconds: float, reading_seconds: float) -> None:
        """Close all connections within `seconds`, or `reading_seconds` if a client is still reading a response."""
        self.close_idle()
        await self._wait_while(lambda: bool(self._all), seconds)
        await self._wait_while(lambda: any(one.has_unsent for one in self._all), reading_seconds - seconds)
        for connection in list(self._all):
            connection.abort()

    async def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while condition():
                    self._discarded.clear()
                    await self._discarded.wait()


def _max_clients_by_files(max_clients: int) -> int:
    """Raise the limit on open files as far as the system allows; return how many clients it permits.

    Each client takes one descriptor, and its engine connection another.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 2 * max_clients + OWN_FILES
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        soft = files
    return max_clients if soft == resource.RLIM_INFINITY else max(1, (soft - OWN_FILES) // 2)
