"""All connections of clients: their number, their clock, and who answers what."""

import asyncio
import math
from collections.abc import Callable

from services.gateway.core import errors
from services.gateway.core.cors import Cors
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.errors import ApiError
from services.gateway.core.paths import normalize
from services.gateway.door import Door
from services.gateway.http import head
from services.gateway.http.connection import ClientConnection
from services.gateway.http.exchange import Exchange
from services.gateway.http.pages import METHODS, Pages
from services.gateway.http.request import AUTHORIZATION, Request
from services.gateway.http.told import told
from shared.ids import uuid7
from shared.messages.keys import KeyRecord

TICK_SECONDS = 0.25
"""How exactly time limits are held: much finer than the shortest of them."""
JSON, IDENTITY = b"application/json", b"identity"
JSON_FIELDS = b"Content-Type: application/json\r\n"


class Front:
    """What the connections share. Its owner calls `tick` every `TICK_SECONDS`."""

    def __init__(self, door: Door, monotonic: Callable[[], float], is_ready: Callable[[], bool]) -> None:
        self._door = door
        self._monotonic = monotonic
        self.settings = door.config.gateway
        self.batcher = door.engines.batcher
        self.memory = door.memory
        self.connections: set[ClientConnection] = set()
        self._disconnected = asyncio.Event()
        self._endpoints = {path.encode("ascii"): endpoint for path, endpoint in ENDPOINTS.items()}
        self._pages = Pages(door, is_ready)
        self.cors = Cors(self.settings.cors_origins) if self.settings.cors_origins else None
        self._second = -math.inf
        self.now = 0.0
        self.every_answer = b""
        self.tick()

    @property
    def leaving(self) -> bool:
        return self._door.leaving

    def connection(self) -> ClientConnection:
        """For a listening socket: the protocol of a new connection."""
        return ClientConnection(self)

    def tick(self) -> None:
        """Time goes on, for clients and engines."""
        self.now = now = self._monotonic()
        self._door.engines.tick(now)
        for client in [client for client in self.connections if client.deadline <= now]:
            client.expire()
        if now - self._second >= 1.0:
            self._second = now
            self.every_answer = head.every_answer(self._door.now())
            for exchange in self._door.exchanges:
                exchange.account()
            self._door.look_at_gates()
            self._door.access_log.report_suppressed(self._door.now())
        self._door.access_log.flush()

    def close_idle(self) -> None:
        for client in list(self.connections):
            client.close_idle()

    async def close(self, seconds: float) -> None:
        """Returns once what was written to clients has gone out, or its time is up."""
        self.close_idle()
        try:
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._disconnected.clear()
                    await self._disconnected.wait()
        except TimeoutError:
            for client in list(self.connections):
                client.abort()

    # From a connection.

    def connected(self, client: ClientConnection) -> bool:
        if len(self.connections) >= self.settings.max_connections or self.leaving:
            return False
        self.connections.add(client)
        return True

    def disconnected(self, client: ClientConnection) -> None:
        self.connections.discard(client)
        self._disconnected.set()

    def begin(self, request: Request) -> None:
        request.arrived = self._door.now()
        request.id = uuid7(request.arrived)

    def open(self, request: Request, client: ClientConnection) -> Exchange | None:
        key: KeyRecord | None = None
        try:
            endpoint = self._endpoints.get(request.target)
            path = endpoint.path if endpoint else normalize(request.target)
            endpoint = endpoint or ENDPOINTS.get(path)
            preflight = self.cors.preflight(request.method, request.text_headers) if self.cors else None
            if preflight is not None:
                told(self._door, request, 200, "", key_id=None)
                client.respond(request, 200, preflight, b"")
                return None
            if endpoint is not None:
                _allow(request, "POST")
                key = self._door.authorize(request.headers.get(AUTHORIZATION))
                self._check_body(request)
                if not request.held.move_to(key.id):
                    raise errors.too_many_bytes()
                if b"expect" in request.headers and not request.complete:
                    client.proceed()
                return Exchange(self._door, client, request, key, endpoint)
            needs_key = self._pages.needs_key(path)
            _allow(request, *METHODS)
            if needs_key:
                key = self._door.authorize(request.headers.get(AUTHORIZATION))
            status, body = self._pages.get(path, key)
        except ApiError as error:
            self.refuse(request, client, error)
        else:
            fields = JSON_FIELDS if key is None else JSON_FIELDS + self._door.limit_fields(key)
            told(self._door, request, status, "", key_id=key.id if key else None)
            client.respond(request, status, fields, body)
        return None

    def refuse(self, request: Request, client: ClientConnection, error: ApiError) -> None:
        # Also where its key was not asked for: each answer says how that stands.
        key = self._door.key_of(request.headers.get(AUTHORIZATION))
        told(self._door, request, error.status, error.code, key_id=key.id if key else None)
        fields = error.fields() if key is None else error.fields() + self._door.limit_fields(key)
        client.respond(request, error.status, fields, error.body())

    def _check_body(self, request: Request) -> None:
        """Whatever the head says of the body: 411, 413, 415."""
        headers = request.headers
        content_type = headers.get(b"content-type", JSON)
        if content_type != JSON and content_type.partition(b";")[0].strip().lower() != JSON:
            raise errors.unsupported_media_type(content_type.decode("latin-1"))
        encoding = headers.get(b"content-encoding", IDENTITY)
        if encoding.strip().lower() != IDENTITY:
            raise errors.unsupported_encoding(encoding.decode("latin-1"))
        length = request.content_length
        if length is None and b"transfer-encoding" not in headers:
            raise errors.length_required()
        if length is not None and length > self.settings.max_body_bytes:
            raise errors.request_too_large(self.settings.max_body_bytes)


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise errors.method_not_allowed(request.method, ", ".join(methods))
