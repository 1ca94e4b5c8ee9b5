"""The way to the engines: calls over connections that are kept for the next one, shorter than engines keep theirs."""

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from services.gateway.adapters.engine_connection import EngineConnection
from services.gateway.core.request_body import Piece
from services.gateway.write_batcher import WriteBatcher
from shared.config import GatewaySection

KEEPALIVE_SECONDS = 4.0
"""vLLM closes an idle connection after 5 s; ours is gone before."""
MAX_IDLE = 256
"""Kept connections per engine: more than a machine's usual room, fewer than would matter to it."""

log = structlog.get_logger()


class Receiver(Protocol):
    """Who gets an engine's answer: `on_head`, the body's pieces, `on_end`; or `on_lost` at any time."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        """Returns who takes the body's pieces: each goes there without a detour."""

    def on_end(self) -> None: ...

    def on_lost(self, reason: str, *, unreachable: bool) -> None:
        """No more will come. `unreachable`: no connection to the engine could be made."""


class EngineCall:
    """One request to one engine. `abort` ends it and, by closing the connection, the engine's work on it."""

    __slots__ = (
        "_connecting",
        "_connection",
        "_engines",
        "_paused",
        "_request",
        "_reused",
        "answering",
        "deadline",
        "origin",
        "receiver",
        "written",
    )

    def __init__(self, engines: "EngineClient", origin: str, request: list[Piece], receiver: Receiver) -> None:
        self._engines = engines
        self.origin = origin
        self._request = request
        self.receiver = receiver
        self._connection: EngineConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._reused = self._paused = False
        self.written = False
        """Whether the request may have reached the engine."""
        self.answering = False
        self.deadline = math.inf
        """Monotonic seconds."""

    def begin(self) -> None:
        connection = self._engines.idle(self.origin)
        if connection is None:
            self._connect()
        else:
            self._reused = True
            self._write(connection)

    def abort(self) -> None:
        """Nothing is told any more."""
        self._engines.calls.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    def pause(self) -> None:
        """Whoever reads the answer cannot take more now."""
        self._paused = True
        self.deadline = math.inf
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        self._wait()
        if self._connection is not None:
            self._connection.resume()

    def expire(self) -> None:
        """The deadline has passed."""
        if self._connection is None:
            self._end("no connection in time", unreachable=True)
        else:
            self._end("silent for too long")

    # From the connection.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        self._request = []
        return self.receiver.on_head(status, headers)

    def on_bytes(self) -> None:
        """Anything has come."""
        self.answering = True
        if not self._paused:
            self.deadline = self._engines.now + self._engines.settings.read_timeout

    def on_complete(self, connection: EngineConnection, *, reusable: bool) -> None:
        self._connection = None
        self._engines.calls.discard(self)
        if reusable:
            self._engines.keep(self.origin, connection)
        else:
            connection.abort()
        self.receiver.on_end()

    def on_closed(self, reason: str) -> None:
        """The connection is gone before the answer was complete."""
        self._connection = None
        if self._reused and not self.answering:
            # The engine closed a kept connection just as it was used; nothing of an answer came. Once more, anew.
            self._reused = False
            self._connect()
        else:
            self._end(reason)

    def _connect(self) -> None:
        self.deadline = self._engines.now + self._engines.settings.connect_timeout
        self._connecting = asyncio.get_running_loop().create_task(self._connected())

    async def _connected(self) -> None:
        try:
            connection = await self._engines.connect(self.origin)
        except OSError as error:
            self._connecting = None
            self._end(error.strerror or str(error) or type(error).__name__, unreachable=True)
        except Exception:  # a fault of ours keeps nobody waiting
            log.exception("engine_connect_failed", origin=self.origin)
            self._connecting = None
            self._end("no connection", unreachable=True)
        else:
            self._connecting = None
            self._write(connection)

    def _write(self, connection: EngineConnection) -> None:
        self._connection = connection
        self.written = True
        self._wait()
        connection.send(self._request, self)
        if self._paused:
            connection.pause()

    def _wait(self) -> None:
        settings = self._engines.settings
        self.deadline = self._engines.now + (settings.read_timeout if self.answering else settings.first_byte_timeout)

    def _end(self, reason: str, *, unreachable: bool = False) -> None:
        self.abort()
        self.receiver.on_lost(reason, unreachable=unreachable)


class EngineClient:
    """All calls of this process. Its owner calls `tick`, which gives time and ends what takes too long."""

    def __init__(self, settings: GatewaySection, batcher: WriteBatcher) -> None:
        self.settings = settings
        self.batcher = batcher
        self.now = 0.0
        """Monotonic seconds, as of the last tick."""
        self.calls: set[EngineCall] = set()
        self._idle: dict[str, deque[tuple[float, EngineConnection]]] = {}
        """The one used last is at the right."""

    def call(self, origin: str, request: list[Piece], receiver: Receiver) -> EngineCall:
        """Send a whole HTTP request, head and body, in pieces."""
        call = EngineCall(self, origin, request, receiver)
        self.calls.add(call)
        call.begin()
        return call

    def tick(self, now: float) -> None:
        self.now = now
        for call in [call for call in self.calls if call.deadline <= now]:
            call.expire()
        for kept in self._idle.values():
            while kept and kept[0][0] <= now - KEEPALIVE_SECONDS:
                kept.popleft()[1].abort()

    def idle(self, origin: str) -> EngineConnection | None:
        kept = self._idle.get(origin)
        while kept:
            since, connection = kept.pop()
            if connection.alive and since > self.now - KEEPALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    def keep(self, origin: str, connection: EngineConnection) -> None:
        kept = self._idle.setdefault(origin, deque())
        kept.append((self.now, connection))
        if len(kept) > MAX_IDLE:
            kept.popleft()[1].abort()

    async def connect(self, origin: str) -> EngineConnection:
        """A new connection, or `OSError`."""
        where = urlsplit(origin)
        secure = ssl.create_default_context() if where.scheme == "https" else None
        port = where.port or (443 if secure else 80)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: EngineConnection(self.batcher), where.hostname or "", port, ssl=secure
        )
        return connection

    def close(self) -> None:
        for kept in self._idle.values():
            for _, connection in kept:
                connection.abort()
        self._idle.clear()
        for call in list(self.calls):
            call.abort()
