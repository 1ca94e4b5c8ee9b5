"""One request from its body to its usage event: check, hold, forward, relay, count."""

import asyncio
import math
from dataclasses import dataclass, field

import aiohttp
import msgspec
import structlog
from aiohttp import web

from services.gateway.adapters.engines import EngineUnreachable
from services.gateway.core import errors, usage
from services.gateway.core.errors import ApiError
from services.gateway.core.hold import Ticket, TooManyWaiting
from services.gateway.core.outlook import Outlook, outlook
from services.gateway.core.request import Asked, for_engine, parse
from services.gateway.core.stream import EventTooLarge, StreamReader
from services.gateway.core.tally import Tally
from services.gateway.door import Door
from services.gateway.http.body import read_body, wake_limit
from shared.config import Model
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord

EVENT_STREAM = "text/event-stream"
STREAM_HEADERS = {
    "Content-Type": f"{EVENT_STREAM}; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
NO_STREAM_OPTIONS = frozenset({"/v1/responses", "/v1/embeddings"})
"""Paths whose engines take none; `/v1/responses` says its usage by itself."""

log = structlog.get_logger()


@dataclass(eq=False, kw_only=True)
class Exchange:
    """One request. `run` answers it; `leave` and `cut` end it early while the gateway drains."""

    door: Door
    request: web.Request
    key: KeyRecord
    request_id: str
    arrived: float
    task: "asyncio.Task[object]"
    asked: Asked = field(init=False)
    model: Model = field(init=False)
    _machine: MachineRecord | None = None
    _granted: "asyncio.Future[MachineRecord] | None" = None
    _sent: web.StreamResponse | None = None
    """The stream to the client, once its status line has gone out."""
    _cut: bool = False
    _tally: Tally = field(init=False)

    async def run(self) -> web.StreamResponse:
        """The answer. Errors before the status line are raised as `ApiError`, later ones are told in the stream."""
        self.door.exchanges.add(self)
        self._tally = Tally(arrived=self.arrived)
        try:
            await self._check()
            self._machine = await self._place()
            return await self._forward()
        except ApiError as error:
            if self._sent is None:
                raise
            self.door.metrics.refused.labels(error.code).inc()
            return await self._end(self._sent, error.event())
        except asyncio.CancelledError:
            self._tally.outcome = "client_closed"
            if not self._cut or self._sent is None:
                raise
            self._tally.outcome = "engine_lost"  # what was delivered is served
            return await self._end(self._sent, errors.leaving().event())
        finally:
            self.door.exchanges.discard(self)
            self._settle()

    def leave(self) -> None:
        """The gateway drains: a held request tries elsewhere."""
        if self._granted is not None and not self._granted.done():
            self._granted.set_exception(errors.leaving())

    def cut(self) -> None:
        """The grace is over."""
        self._cut = True
        self.task.cancel()

    async def _check(self) -> None:
        self.asked = parse(await read_body(self.request, self.door.config.gateway))
        model = self.door.config.models.get(self.asked.model)
        if model is None:
            raise errors.model_not_found(self.asked.model)
        if not self.key.allows(model.name):
            raise errors.model_not_allowed(model.name)
        self.model = model
        self.door.admit()

    async def _place(self) -> MachineRecord:
        """A place on a ready machine, held for until one wakes."""
        hold = self.door.hold
        limit = wake_limit(self.request, self.door.config.gateway.hold_cap)
        if (record := hold.take(self.model)) is not None:
            return record
        if not hold.servable(self.model):
            raise errors.no_upstream(self.model.name)
        deadline = self.arrived + (self.door.config.gateway.hold_cap if limit is None else limit)
        if limit == 0:
            deadline = self.arrived + self.door.config.gateway.hold_cap
            self.door.demand.ask_once(self.model.name, self.request_id, self.key.id, deadline)
            raise self._outlook().refusal()
        self._granted = asyncio.get_running_loop().create_future()
        ticket = Ticket(self.model.name, self.key.id, self.request_id, deadline, self._grant)
        try:
            hold.enqueue(ticket)
        except TooManyWaiting:
            raise errors.too_many_waiting(self._outlook().retry_after) from None
        self.door.demand.changed(self.model.name)
        begun = self.door.now()
        try:
            record = await self._held(deadline, capped=limit is None or limit >= self.door.config.gateway.hold_cap)
        except BaseException:
            if self._granted.done() and not self._granted.cancelled() and self._granted.exception() is None:
                self.door.machine_left(self._granted.result().machine)
            raise
        finally:
            hold.leave(ticket)
            self.door.demand.changed(self.model.name)
            self._tally.wake_wait = self.door.now() - begun
        self._tally.wake_id = record.wake_id
        self.door.metrics.wake_wait.observe(self._tally.wake_wait)
        return record

    def _grant(self, record: MachineRecord) -> None:
        assert self._granted is not None
        if self._granted.done():
            # Cancelled or sent elsewhere in this very turn of the loop: the place goes to the next one.
            asyncio.get_running_loop().call_soon(self.door.machine_left, record.machine)
        else:
            self._granted.set_result(record)

    async def _held(self, deadline: float, *, capped: bool) -> MachineRecord:
        """Wait for the grant; a stream hears after a while that, and for what, it waits."""
        assert self._granted is not None
        settings = self.door.config.gateway
        next_word = self.arrived + settings.headers_held if self.asked.stream else math.inf
        while True:
            pause = min(deadline, next_word) - self.door.now()
            await asyncio.wait([self._granted], timeout=max(0.0, pause))
            if self._granted.done():
                return self._granted.result()
            now = self.door.now()
            if now >= deadline:
                raise errors.wake_timeout(settings.hold_cap) if capped else self._outlook().refusal()
            if now >= next_word:
                stream = await self._open_stream()
                await stream.write(self._outlook().comment())
                next_word = now + settings.heartbeat

    async def _forward(self) -> web.StreamResponse:
        """To the engine and back; before the first byte a failure moves on to another machine, once."""
        for may_move in (True, False):
            machine = self._machine
            assert machine is not None
            self._tally.forwarded_at = self._tally.forwarded_at or self.door.now()
            self._tally.written = True
            try:
                async with self.door.engines.answer(*self._engine_request(machine)) as answer:
                    self._tally.status = answer.status
                    if answer.status >= 500 and may_move and self._move(machine):
                        continue
                    return await self._relay(answer)
            except EngineUnreachable as error:
                self._tally.written = error.written
                log.warning(
                    "engine unreachable", machine=machine.machine, reason=str(error), request_id=self.request_id
                )
                if may_move and self._move(machine):
                    continue
                raise errors.upstream_unreachable() from error
        raise AssertionError("the second round always answers")

    def _move(self, machine: MachineRecord) -> bool:
        another = self.door.hold.take(self.model, besides=machine.machine)
        if another is None:
            return False
        self.door.machine_left(machine.machine)
        self._machine = another
        return True

    def _engine_request(self, machine: MachineRecord) -> tuple[str, bytes, dict[str, str]]:
        path = self.request.path
        body = for_engine(self.asked, served_as=self.model.served_as, usage_options=path not in NO_STREAM_OPTIONS)
        headers = {
            "Content-Type": "application/json",
            "Accept": self.request.headers.get("Accept", "*/*"),
            "Accept-Encoding": "identity",
            "x-request-id": self.request_id,
        }
        return f"{machine.endpoint}{path}", body, headers

    async def _relay(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        if answer.status < 300 and answer.content_type == EVENT_STREAM:
            return await self._relay_stream(answer)
        try:
            body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineUnreachable(f"died in its answer: {error}", written=True) from error
        self._tally.first_byte_at = self.door.now()
        if answer.status < 300:
            self._tally.outcome = "completed"
            self._tally.count = usage.of_answer(body)
        if self._sent is not None:
            return await self._end(self._sent, _as_event(body))
        content_type = answer.headers.get("Content-Type", "application/json")
        return web.Response(status=answer.status, body=body, headers={"Content-Type": content_type})

    async def _relay_stream(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        reader = StreamReader(
            wants_usage=self.asked.wants_usage,
            wants_running_usage=self.asked.wants_running_usage,
            ends_with_done=self.request.path != "/v1/responses",
        )
        stream = await self._open_stream()
        try:
            async for data in answer.content.iter_any():
                self._tally.first_byte_at = self._tally.first_byte_at or self.door.now()
                if relayed := reader.feed(data):
                    await stream.write(relayed)
            if rest := reader.end():
                await stream.write(rest)
        except ConnectionResetError:
            self._tally.outcome = "client_closed"
            raise
        except (aiohttp.ClientError, TimeoutError, EventTooLarge) as error:
            log.warning("engine lost", reason=str(error) or type(error).__name__, request_id=self.request_id)
        finally:
            self._tally.count = reader.count
        if reader.complete:
            self._tally.outcome = "completed"
            return await self._end(stream, b"")
        self._tally.outcome = "engine_lost"
        return await self._end(stream, errors.engine_lost().event())

    async def _open_stream(self) -> web.StreamResponse:
        if self._sent is None:
            self._sent = web.StreamResponse(status=200, headers=STREAM_HEADERS)
            await self._sent.prepare(self.request)
        return self._sent

    @staticmethod
    async def _end(stream: web.StreamResponse, last: bytes) -> web.StreamResponse:
        try:
            if last:
                await stream.write(last)
            await stream.write_eof()
        except ConnectionResetError:
            log.debug("client gone before the end of its stream")
        return stream

    def _outlook(self) -> Outlook:
        machines = self.door.config.machines_of(self.model)
        records = [record for machine in machines if (record := self.door.fleet.get(machine.id)) is not None]
        return outlook(self.model, records, self.door.now())

    def _settle(self) -> None:
        """Give the place back and count what was used."""
        if self._machine is None:
            return
        if self._tally.written:
            event = self._tally.event(
                request_id=self.request_id,
                key_id=self.key.id,
                model=self.model.name,
                machine=self._machine,
                streamed=self.asked.stream,
                now=self.door.now(),
            )
            self.door.metrics.overhead.observe(event.overhead)
            if event.first_token is not None:
                self.door.metrics.first_token.observe(event.first_token)
            self.door.record(event)
        self.door.machine_left(self._machine.machine)


def _as_event(body: bytes) -> bytes:
    """An engine's whole answer inside a stream that has begun: its error, on one line."""
    try:
        return b"data: " + msgspec.json.encode(msgspec.json.decode(body)) + b"\n\n"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return errors.upstream_unreachable().event()
