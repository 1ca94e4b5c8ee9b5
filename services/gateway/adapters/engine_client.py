"""Calls to engines, over kept-alive connections that this side closes before the engine does."""

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from services.gateway.adapters.engine_connection import EngineConnection
from services.gateway.adapters.write_batcher import WriteBatcher
from services.gateway.core.request_body import Piece
from shared.config.sections import GatewaySection

KEEPALIVE_SECONDS = 4.0
"""vLLM closes an idle connection after 5 s; this side closes it first."""
MAX_IDLE = 256
"""Idle connections kept per engine: more than a machine's usual concurrency, too few to burden it."""

log = structlog.get_logger()


class Receiver(Protocol):
    """Receives an engine's response: `on_head`, the pieces of the body, `on_end`; or `on_lost` at any time."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        """Return the function that takes the pieces of the body; each piece goes straight to it."""

    def on_end(self) -> None: ...

    def on_lost(self, reason: str, *, unreachable: bool) -> None:
        """Nothing more will come. `unreachable`: the engine could not be connected to."""


@dataclass(slots=True, eq=False)
class EngineCall:
    """One request to one engine. `abort` closes the connection, which also ends the engine's work."""

    client: "EngineClient"
    origin: str
    request: list[Piece]
    receiver: Receiver
    written: bool = False
    """Whether the request may have reached the engine."""
    _deadline: float = math.inf
    """On the clock of the `EngineClient`."""
    _reads: int = 0
    """The connection's `reads` at the last check."""
    _connection: EngineConnection | None = None
    _connecting: asyncio.Task[None] | None = None
    _reused: bool = False
    _paused: bool = False

    def begin(self) -> None:
        connection = self.client.take_idle(self.origin)
        if connection is None:
            self._connect()
        else:
            self._reused = True
            self._write(connection)

    def abort(self) -> None:
        """End the call; the receiver gets nothing more."""
        self.client.calls.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    def pause(self) -> None:
        """Stop reading from the engine: the client cannot take more now."""
        self._paused = True
        if self._connection is not None:
            self._deadline = math.inf
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._wait(self._connection)
            self._connection.resume()

    def check(self) -> None:
        """Extend the deadline if anything has arrived, or end a call whose deadline has passed. Called on each tick."""
        connection = self._connection
        if connection is not None and connection.reads != self._reads:
            self._wait(connection)
        elif self._deadline <= self.client.now:
            reason = "the connection timed out" if connection is None else "the engine sent nothing for too long"
            self._end(reason, unreachable=connection is None)

    # From the connection.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        self.request = []
        return self.receiver.on_head(status, headers)

    def on_complete(self, connection: EngineConnection, *, reusable: bool) -> None:
        self._connection = None
        self.client.calls.discard(self)
        if reusable:
            self.client.keep(self.origin, connection)
        else:
            connection.abort()
        self.receiver.on_end()

    def on_closed(self, reason: str) -> None:
        """Handle a connection that closed before the response was complete."""
        connection, self._connection = self._connection, None
        if self._reused and connection is not None and not connection.reads:
            # The engine closed a kept connection just as it was reused, and sent nothing: retry on a new connection.
            self._reused = False
            self._connect()
        else:
            self._end(reason)

    def _connect(self) -> None:
        self._deadline = self.client.now + self.client.settings.connect_timeout
        self._connecting = asyncio.get_running_loop().create_task(self._connect_and_send())

    async def _connect_and_send(self) -> None:
        try:
            connection = await self.client.connect(self.origin)
        except Exception as error:  # any failure must end the wait
            reason = str(error) or type(error).__name__
            if isinstance(error, OSError):
                reason = error.strerror or reason
            else:
                log.exception("engine_connect_failed", origin=self.origin)
            self._connecting = None
            self._end(reason, unreachable=True)
        else:
            self._connecting = None
            self._write(connection)

    def _write(self, connection: EngineConnection) -> None:
        self._connection = connection
        self.written = True
        connection.send(self.request, self)
        self._wait(connection)
        if self._paused:
            connection.pause()

    def _wait(self, connection: EngineConnection) -> None:
        """Set the deadline of the next read; none while the client takes nothing."""
        self._reads = connection.reads
        settings = self.client.settings
        seconds = settings.read_timeout if self._reads else settings.first_byte_timeout
        self._deadline = math.inf if self._paused else self.client.now + seconds

    def _end(self, reason: str, *, unreachable: bool = False) -> None:
        self.abort()
        self.receiver.on_lost(reason, unreachable=unreachable)


class EngineClient:
    """All engine calls of this process. Its owner calls `tick`, which drives the deadlines."""

    def __init__(self, settings: GatewaySection, batcher: WriteBatcher) -> None:
        self.settings = settings
        self.batcher = batcher
        self.now = 0.0
        """The clock of all deadlines, as of the last tick. It stands still while the process is stalled."""
        self.calls: set[EngineCall] = set()
        self._idle: dict[str, deque[tuple[float, EngineConnection]]] = {}
        """By origin; the connection used last is on the right."""

    def call(self, origin: str, request: list[Piece], receiver: Receiver) -> EngineCall:
        """Send a complete HTTP request, given in pieces; the receiver gets the response."""
        call = EngineCall(self, origin, request, receiver)
        self.calls.add(call)
        call.begin()
        return call

    def tick(self, now: float) -> None:
        self.now = now
        for call in list(self.calls):
            call.check()
        for kept in self._idle.values():
            while kept and kept[0][0] <= now - KEEPALIVE_SECONDS:
                kept.popleft()[1].abort()

    def take_idle(self, origin: str) -> EngineConnection | None:
        kept = self._idle.get(origin)
        while kept:
            since, connection = kept.pop()
            if connection.is_open and since > self.now - KEEPALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    def keep(self, origin: str, connection: EngineConnection) -> None:
        kept = self._idle.setdefault(origin, deque())
        kept.append((self.now, connection))
        if len(kept) > MAX_IDLE:
            kept.popleft()[1].abort()

    async def connect(self, origin: str) -> EngineConnection:
        """Return a new connection.

        Raises:
            OSError: it could not be made.
        """
        where = urlsplit(origin)
        secure = self._tls if where.scheme == "https" else None
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: EngineConnection(self.batcher),
            where.hostname or "",
            where.port or (443 if secure else 80),
            ssl=secure,
        )
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Built once, since it reads the system's certificates."""
        return ssl.create_default_context()

    def close(self) -> None:
        for kept in self._idle.values():
            for _, connection in kept:
                connection.abort()
        self._idle.clear()
        for call in list(self.calls):
            call.abort()
