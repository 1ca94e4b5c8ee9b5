"""The engine's side of one request: forwarding, failover, the response, and the outcome.

An engine's bytes arrive in calls from its connection and are passed to the client within these calls: no task runs in
between. Any failure in here ends this request with an error.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from services.gateway.adapters.engine_client import EngineCall
from services.gateway.adapters.engine_connection import discard
from services.gateway.adapters.http.exchange import Exchange
from services.gateway.adapters.http.failover import Failover
from services.gateway.adapters.http.paced_inflater import PacedInflater
from services.gateway.adapters.http.response import EVENT_STREAM, BufferedResponse, StreamedResponse
from services.gateway.adapters.http.response_headers import forwarded_headers
from services.gateway.adapters.http.upstream import Upstream
from services.gateway.core import errors
from services.gateway.core.buffer_memory import BufferedBytes
from services.gateway.core.content_coding import IDENTITY, Inflater, Undecodable
from services.gateway.core.endpoints import Endpoint
from services.gateway.core.engine_error import EngineError, is_machine_failure
from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import ParsedRequest
from services.gateway.core.usage import NO_TOKENS, TokenCount
from shared.config.fleet import Model
from shared.messages.waker import MachineRecord

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Relay:
    """Forwards one request and relays its response. Call `run` once, and `close` in any case."""

    _upstream: Upstream
    _exchange: Exchange
    _body: ParsedRequest
    _model: Model
    _endpoint: Endpoint
    _call: EngineCall | None = None
    _failover: Failover | None = None
    """Set once the machine has failed."""
    _response: StreamedResponse | BufferedResponse | None = None
    _inflating: PacedInflater | None = None
    is_recorded: bool = False
    """Whether the usage event has been written: nothing that follows changes it."""
    _done: "asyncio.Future[ApiError | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    machine: MachineRecord | None = None
    """The machine on which the request has a place."""

    async def run(self, machine: MachineRecord) -> None:
        """Forward the request, and return once the complete response has been written to the client.

        Raises:
            ApiError: the error with which to end the client's response.
        """
        self.machine = machine
        self._guard(self._forward, machine)
        if (error := await self._done) is not None:
            raise error

    def close(self) -> None:
        """Stop the engine's work, record it, and release what is held."""
        try:
            self.record()
        except Exception:  # the place must still be released
            log.exception("usage_record_failed", request_id=self._exchange.response.id)
        self._abort_call()
        if self._failover is not None:
            self._failover.stop()
            self._failover = None  # they hold each other
        response, self._response = self._response, None
        if self._inflating is not None:
            self._inflating.stop()
            self._inflating = None
        if isinstance(response, BufferedResponse):
            response.buffered.release()
        if self.machine is not None:
            self._upstream.dispatcher.release(self.machine.machine)

    def pause(self) -> None:
        if (flow := self._inflating or self._call) is not None:
            flow.pause()

    def resume(self) -> None:
        if (flow := self._inflating or self._call) is not None:
            flow.resume()

    @property
    def running(self) -> TokenCount:
        """The tokens of a stream so far."""
        return self._response.count if isinstance(self._response, StreamedResponse) else NO_TOKENS

    def record(self) -> None:
        """Record the usage event, once, if an engine may have seen the request."""
        usage, response = self._exchange.usage, self._response
        if self.is_recorded:
            return
        if self._call is not None:
            usage.written = usage.written or self._call.written
        if response is not None:
            usage.first_byte_at = response.first_at
            if usage.status < 300 and usage.outcome != "failed":
                usage.count = response.count
        if usage.written:
            self.is_recorded = True
            self._upstream.recorder.record(usage, self._exchange.reservation)

    # From the engine's connection.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        return self._guard(self._on_head, status, headers) or discard

    def on_end(self) -> None:
        if self._inflating is None or not self._inflating.defer(self.on_end):
            self._guard(self._on_end)

    def on_lost(self, reason: str, *, unreachable: bool) -> None:
        then = partial(self.on_lost, reason, unreachable=unreachable)
        if self._inflating is None or not self._inflating.defer(then):
            self._guard(self._on_lost, reason, unreachable=unreachable)

    # From the response.

    def on_complete(self) -> None:
        if isinstance(self._response, StreamedResponse) and not self._response.has_error:
            self._set_outcome(None)
        self.record()

    def on_error(self, error: EngineError) -> None:
        """Record the usage at once: a client that reads the error need not wait for more."""
        self._set_outcome(error)
        if self.running.completion:
            self._exchange.usage.outcome = "engine_lost"
        self.record()

    def on_unusable(self, reason: str) -> None:
        self._guard(self._on_lost, reason, unreachable=False)

    def on_full(self) -> None:
        self._end(errors.too_many_bytes())

    def on_crash(self, fault: Exception) -> None:
        if isinstance(fault, Undecodable):
            self.on_unusable(str(fault))
            return
        self._upstream.metrics.faults += 1
        machine = self.machine.machine if self.machine is not None else None
        log.error("relay_failed", request_id=self._exchange.response.id, machine=machine, exc_info=fault)
        if isinstance(self._response, StreamedResponse):
            self._exchange.usage.outcome = "engine_lost"
            self._end(errors.engine_lost())
        else:
            self._end(errors.upstream_unreachable())

    def _guard(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call `action`; an exception in it ends this request, and nothing else."""
        try:
            return action(*args, **kwargs)
        except Exception as fault:  # noqa: BLE001 - any failure becomes the client's error
            self.on_crash(fault)
            return None

    def _end(self, error: ApiError | None = None) -> None:
        self._abort_call()
        if not self._done.done():
            self._done.set_result(error)

    def _abort_call(self) -> None:
        """Make the engine stop working for this request, if it still does."""
        call, self._call = self._call, None
        if call is not None:
            self._exchange.usage.written = self._exchange.usage.written or call.written
            call.abort()

    def _forward(self, machine: MachineRecord) -> None:
        usage, upstream, client = self._exchange.usage, self._upstream, self._exchange.response
        self.machine = usage.machine = machine
        usage.forwarded_at = usage.forwarded_at or upstream.now()
        self._call = upstream.send(machine, self._endpoint, self._body, self._model, response=client, receiver=self)
        if client.connection.writing_paused:
            self._call.pause()

    def _fail_over(self) -> bool:
        """Move the request to another machine, once; return False if that is not possible."""
        assert self.machine is not None, "the request has a machine"
        if self._failover is not None:
            return False
        self._failover = Failover(self._upstream, self._move, self._abort_call, self._end)
        return self._failover.start(self._model.name, self._exchange.usage.key_id, failed=self.machine.machine)

    def _move(self, another: MachineRecord) -> None:
        self._abort_call()
        left, self.machine = self.machine, another
        if left is not None:
            self._upstream.dispatcher.release(left.machine)
        self._upstream.metrics.failovers += 1
        self._exchange.usage.on_failover()
        self._guard(self._forward, another)

    def _on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        exchange, upstream = self._exchange, self._upstream
        exchange.usage.status = status
        if is_machine_failure(status):
            self._report_failure(str(status))
            if self._fail_over():
                return discard
        coding = headers.get(b"content-encoding", IDENTITY).strip().lower()
        inflater = Inflater(coding) if coding != IDENTITY else None
        self._body.body = b""  # it is not sent again, so a long stream need not hold it
        exchange.body.release()
        is_stream = status < 300 and headers.get(b"content-type", b"").lower().startswith(EVENT_STREAM)
        fields = forwarded_headers(headers, stream=is_stream)
        if is_stream:
            reader, send = upstream.stream_reader(self._body, self._endpoint), exchange.response.send
            self._response = StreamedResponse(
                send, reader, self, gap_histogram=upstream.metrics.chunk_gap, now=upstream.now
            )
            exchange.response.start(fields)
        else:
            buffered = BufferedBytes(upstream.memory, exchange.usage.key_id)
            self._response = BufferedResponse(fields, upstream.now(), buffered, self)
        if inflater is None:
            return self._response.feed
        self._inflating = PacedInflater(inflater, self._response, self, self._call)
        return self._inflating.feed

    def _on_end(self) -> None:
        response = self._response
        if self._inflating is not None and not self._inflating.complete:
            self.on_lost("the compressed response is incomplete", unreachable=False)
        elif isinstance(response, StreamedResponse):
            response.end()
            if response.complete:
                self._finish_stream()
            elif not self._done.done():  # otherwise it was unusable
                self.on_lost("the stream ended early", unreachable=False)
        else:
            assert response is not None, "a response's end comes after its head"
            self._finish_buffered(response)

    def _finish_stream(self) -> None:
        self.record()
        self._exchange.response.end()
        self._end()

    def _finish_buffered(self, response: BufferedResponse) -> None:
        usage, client = self._exchange.usage, self._exchange.response
        if usage.status < 300:
            self._set_outcome(response.verdict.error)
        else:
            usage.machine_answered = not is_machine_failure(usage.status)
        if client.started and len(response.body) > self._upstream.max_event_bytes:
            usage.outcome = "failed"
            self._end(errors.upstream_unreachable())
            return
        self.record()
        if client.started:
            client.send(response.as_event())
            client.end(response.buffered.release)
        else:
            client.respond(usage.status, response.fields, memoryview(response.body), response.buffered.release)
        self._response = None  # released once the client has read it
        self._end()

    def _on_lost(self, reason: str, *, unreachable: bool) -> None:
        """Handle an engine that died or sent an unusable response: fail over, or end with an error."""
        response = self._response
        if isinstance(response, StreamedResponse) and (response.complete or response.has_error):
            self._finish_stream()  # the stream was already complete
            return
        if not is_machine_failure(self._exchange.usage.status):  # otherwise the failure was reported with the head
            self._report_failure(reason, unreachable=unreachable)
        if isinstance(response, StreamedResponse):
            self._exchange.usage.outcome = "engine_lost"
            self._end(errors.engine_lost())
        elif response is not None or not self._fail_over():
            self._end(errors.upstream_unreachable())

    def _set_outcome(self, error: EngineError | None) -> None:
        usage = self._exchange.usage
        if error is None:
            usage.outcome, usage.machine_answered = "completed", True
        elif error.refused:
            usage.machine_answered = True
        else:
            self._report_failure("an error in the response")

    def _report_failure(self, reason: str, *, unreachable: bool = False) -> None:
        assert self.machine is not None, "a failed request has a machine"
        self._upstream.report_failure(self.machine.machine, self._exchange.usage, reason, unreachable=unreachable)
