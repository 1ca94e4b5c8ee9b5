"""The handler of requests that an engine serves: authenticate, parse, admit, place or hold, forward, record."""

import asyncio
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import structlog
from aiohttp import hdrs, web

from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.adapters.http.exchange import Exchange
from services.gateway.adapters.http.relay import Relay
from services.gateway.adapters.http.request_log import CLIENT_CLOSED, RequestLog
from services.gateway.adapters.http.response_headers import forwarded_headers
from services.gateway.adapters.http.upstream import Upstream
from services.gateway.app.admission import Admission, parse_wake_timeout
from services.gateway.app.authenticator import Authenticator
from services.gateway.app.lifecycle import Lifecycle
from services.gateway.core import errors
from services.gateway.core.buffer_memory import BufferedBytes, BufferMemory
from services.gateway.core.endpoints import Endpoint
from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import LARGE_BYTES, ParsedRequest, parse, parse_in_steps
from services.gateway.core.usage_record import UsageRecord
from shared.config.fleet import Model
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord

JSON, IDENTITY = "application/json", "identity"
WAKE_TIMEOUT = "X-Wake-Timeout"
BYTES_PER_TOKEN = 4
"""Bytes of JSON per token of English: an estimate that the final count corrects."""

log = structlog.get_logger()


@dataclass(eq=False)
class Inference:
    """Handles the endpoints that engines serve. `hold_cap` is in seconds."""

    authenticator: Authenticator
    admission: Admission
    upstream: Upstream
    lifecycle: Lifecycle
    request_log: RequestLog
    _: KW_ONLY
    memory: BufferMemory
    max_body_bytes: int
    hold_cap: float
    open_response: Callable[[web.BaseRequest], ClientResponse]
    _parsing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def handle(self, endpoint: Endpoint, request: web.Request) -> ClientResponse:
        response = self.open_response(request)
        usage = UsageRecord(response.id, "", response.arrived, endpoint.kind)
        exchange = Exchange(response, usage, BufferedBytes(self.memory))
        self.lifecycle.exchanges.add(exchange)
        error: ApiError | None = None
        try:
            await self._serve(exchange, endpoint)
        except ApiError as rejection:
            error = rejection.without_traceback()
        except asyncio.CancelledError:
            interruption = exchange.take_interruption()
            if not response.ended:  # otherwise it came too late to change anything
                error = interruption
            if exchange.relay is None or not exchange.relay.is_recorded:
                usage.outcome = "client_closed" if interruption is None else "engine_lost"
            if interruption is None:
                self._end(exchange, response.sent_status if response.ended else CLIENT_CLOSED)
                raise
        except Exception:
            log.exception("request_failed", request_id=response.id)
            error = errors.internal_error()
        if error is None:
            self._end(exchange, response.sent_status)
        else:
            self._end(exchange, 200 if response.started else error.status, error)
            response.fail(error)
        return response

    async def _serve(self, exchange: Exchange, endpoint: Endpoint) -> None:
        response, usage = exchange.response, exchange.usage
        authorization = response.request.headers.get(hdrs.AUTHORIZATION)
        response.key = self.authenticator.key_of(authorization)
        response.check_head()
        key = response.key or self.authenticator.authenticate(authorization)
        usage.key_id = key.id
        response.connection.buffered.move_to(key.id)
        if self.lifecycle.is_closed:
            raise errors.leaving()
        parsed = await self._parse(await self._receive(exchange, key))
        if parsed.background and endpoint.has_background_mode:
            # Its usage would come after the response, and its result would need a path that is not served.
            raise errors.invalid_request(
                "background", "`background` is not supported. Leave it out, or set it to false."
            )
        model = self.authenticator.model(parsed.model, key)
        usage.on_parsed(model.name, parsed)
        self.admission.check(model)
        timeout = parse_wake_timeout(response.request.headers.get(WAKE_TIMEOUT), self.hold_cap)
        tokens = len(parsed.body) // BYTES_PER_TOKEN + parsed.max_tokens
        exchange.reservation = await self.admission.reserve(key, tokens)
        machine = await self.admission.place(model, key)
        if machine is None:
            machine = await self._hold(exchange, model, key, timeout, is_stream=parsed.stream)
        exchange.relay = Relay(self.upstream, exchange, parsed, model, endpoint)
        response.connection.flow = exchange.relay
        await exchange.relay.run(machine)

    async def _parse(self, body: bytes) -> ParsedRequest:
        if len(body) <= LARGE_BYTES:
            return parse(body)
        async with self._parsing:  # one step per loop iteration, however many large bodies there are
            for parsed in parse_in_steps(body):
                if parsed is not None:
                    return parsed
                await asyncio.sleep(0)
        raise AssertionError("the last step yields the parsed request")

    async def _receive(self, exchange: Exchange, key: KeyRecord) -> bytes:
        """Read the request's body.

        Raises:
            ApiError: 408, 411, 413, 415, or 429 if there is no memory for it.
        """
        request, content = exchange.response.request, exchange.response.request.content
        _check_body(request, self.max_body_bytes)
        exchange.body.move_to(key.id)
        if content.is_eof():
            body = content.read_nowait()
            self._count_received(exchange, len(body))
            return body
        if hdrs.EXPECT in request.headers:
            exchange.response.send_continue()
        received = bytearray()
        while chunk := await content.readany():
            self._count_received(exchange, len(chunk))
            received += chunk
        return bytes(received)

    def _count_received(self, exchange: Exchange, size: int) -> None:
        if exchange.body.size_bytes + size > self.max_body_bytes:
            raise errors.request_too_large(self.max_body_bytes)
        if not exchange.body.grow(size):
            raise errors.too_many_bytes()

    async def _hold(
        self, exchange: Exchange, model: Model, key: KeyRecord, timeout: float | None, *, is_stream: bool
    ) -> MachineRecord:
        """Wait for a place on a machine."""
        response, usage = exchange.response, exchange.usage

        def comment(text: bytes) -> None:
            response.start(forwarded_headers({}, stream=True))
            response.send(text)

        held_at = self.upstream.now()
        try:
            machine = await self.admission.hold(
                model,
                key,
                response.id,
                arrived=response.arrived,
                wake_timeout=timeout,
                comment=comment if is_stream else None,
            )
        finally:
            usage.wake_wait = max(0.0, self.upstream.now() - held_at)
        usage.wake_id = machine.wake_id
        self.upstream.metrics.wake_wait.observe(usage.wake_wait)
        try:
            self.authenticator.authenticate(response.request.headers.get(hdrs.AUTHORIZATION))
            self.admission.check(model)
        except ApiError:  # during the wait the key was revoked or expired, or the outbox filled up
            self.upstream.dispatcher.release(machine.machine)
            raise
        return machine

    def _end(self, exchange: Exchange, status: int, error: ApiError | None = None) -> None:
        """Release everything that the request holds, and log it."""
        relay, exchange.relay = exchange.relay, None
        try:
            if relay is not None:
                exchange.response.connection.flow = None
                relay.close()
            if exchange.reservation is not None:
                exchange.reservation.settle(0, self.upstream.now(), None)
        finally:  # whatever fails, the shutdown must not wait for this request
            exchange.body.release()
            self.lifecycle.end(exchange)
        code, error_status = (error.code, error.status) if error is not None else ("", None)
        self.request_log.write(exchange.response, status, code, exchange.usage, error_status=error_status)


def _check_body(request: web.BaseRequest, max_body_bytes: int) -> None:
    """Raise `ApiError` (411, 413, 415) if the headers announce a body that is not accepted."""
    headers = request.headers
    content_type = headers.get(hdrs.CONTENT_TYPE, JSON)
    if content_type != JSON and content_type.partition(";")[0].strip().lower() != JSON:
        raise errors.unsupported_media_type(content_type)
    encoding = headers.get(hdrs.CONTENT_ENCODING, IDENTITY)
    if encoding.strip().lower() != IDENTITY:
        raise errors.unsupported_encoding(encoding)
    length = request.content_length
    if length is None and hdrs.TRANSFER_ENCODING not in headers:
        raise errors.length_required()
    if length is not None and length > max_body_bytes:
        raise errors.request_too_large(max_body_bytes)
