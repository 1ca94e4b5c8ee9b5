"""The engine's side of one request: where it is sent, what comes back, and what the engine made of it.

It is called by the engine's connection; nothing that goes wrong here leaves the client without an answer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import structlog

from services.gateway.adapters.engine_client import EngineCall
from services.gateway.adapters.engine_connection import discard
from services.gateway.core import errors
from services.gateway.core.content_coding import IDENTITY, Inflater, Undecodable
from services.gateway.core.endpoints import Endpoint
from services.gateway.core.engine_error import EngineError, is_machine_failure
from services.gateway.core.memory import Held
from services.gateway.core.request_body import ParsedRequest
from services.gateway.core.stream import StreamReader
from services.gateway.core.usage import NOTHING, Count
from services.gateway.core.usage_record import UsageRecord
from services.gateway.door import Door
from services.gateway.http.answer import EVENT_STREAM, StreamAnswer, WholeAnswer
from services.gateway.http.connection import ClientConnection
from services.gateway.http.engine_request import engine_request
from services.gateway.http.inflating import Inflating
from services.gateway.http.protocols import RelayOwner
from services.gateway.http.request import Request
from services.gateway.http.response_headers import passed_on
from shared.config import Model
from shared.messages.waker import MachineRecord

log = structlog.get_logger()


class Relay:
    """`forward` it; then the owner is told."""

    __slots__ = (
        "_answer",
        "_asked",
        "_call",
        "_client",
        "_door",
        "_endpoint",
        "_inflating",
        "_may_move",
        "_model",
        "_owner",
        "_request",
        "_tally",
        "machine",
    )

    def __init__(
        self,
        owner: RelayOwner,
        door: Door,
        client: ClientConnection,
        request: Request,
        *,
        asked: ParsedRequest,
        model: Model,
        endpoint: Endpoint,
        tally: UsageRecord,
    ) -> None:
        self._owner = owner
        self._door = door
        self._client = client
        self._request = request
        self._asked = asked
        self._model = model
        self._endpoint = endpoint
        self._tally = tally
        self._call: EngineCall | None = None
        self._may_move = True
        self._answer: StreamAnswer | WholeAnswer | None = None
        self._inflating: Inflating | None = None
        self.machine: MachineRecord | None = None
        """Where it has a place."""

    def forward(self, machine: MachineRecord) -> None:
        with self._guarded():
            self._forward(machine)

    def pause(self) -> None:
        flow = self._inflating or self._call
        if flow is not None:
            flow.pause()

    def resume(self) -> None:
        flow = self._inflating or self._call
        if flow is not None:
            flow.resume()

    @property
    def running(self) -> Count:
        """What of a stream is counted so far."""
        return self._answer.count if isinstance(self._answer, StreamAnswer) else NOTHING

    def sum_up(self) -> None:
        """Write down what the engine may have worked for."""
        tally = self._tally
        if self._call is not None:
            tally.written = tally.written or self._call.written
        if self._answer is not None:
            tally.first_byte_at = self._answer.first_at
            if tally.status < 300 and tally.outcome != "failed":
                tally.count = self._answer.count

    def hang_up(self) -> None:
        """The engine stops working for this request, if it still did."""
        call, self._call = self._call, None
        if call is not None:
            self._tally.written = self._tally.written or call.written
            call.abort()

    def drop_answer(self, *, is_read: bool) -> None:
        """It holds us: without this only the collector would free the two. `is_read`: the client still reads it."""
        answer, self._answer = self._answer, None
        inflating, self._inflating = self._inflating, None
        if inflating is not None:
            inflating.stop()
        if isinstance(answer, WholeAnswer) and not is_read:
            answer.held.release()

    # From the engine's connection.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        with self._guarded():
            return self._on_head(status, headers)
        return discard

    def on_end(self) -> None:
        if self._inflating is None or not self._inflating.postpone(self.on_end):
            with self._guarded():
                self._on_end()

    def on_lost(self, reason: str, *, unreachable: bool) -> None:
        then = partial(self.on_lost, reason, unreachable=unreachable)
        if self._inflating is None or not self._inflating.postpone(then):
            with self._guarded():
                self._on_lost(reason, unreachable=unreachable)

    # From the answer.

    def on_complete(self) -> None:
        if isinstance(self._answer, StreamAnswer) and not self._answer.told_error:
            self._judge(None)
        self._owner.record()

    def on_error(self, error: EngineError) -> None:
        """Counted at once: a client that reads it need not wait for more."""
        self._judge(error)
        if self.running.completion:
            self._tally.outcome = "engine_lost"
        self._owner.record()

    def on_unusable(self, reason: str) -> None:
        with self._guarded():
            self._on_lost(reason, unreachable=False)

    def on_full(self) -> None:
        self._owner.fail(errors.too_many_bytes())

    def on_crash(self, fault: Exception) -> None:
        self._door.metrics.faults += 1
        machine = self.machine.machine if self.machine is not None else None
        log.error("fault_in_relay", request_id=self._request.id, machine=machine, exc_info=fault)
        is_stream = isinstance(self._answer, StreamAnswer)
        if is_stream:
            self._tally.outcome = "engine_lost"
        try:
            self._owner.fail(errors.engine_lost() if is_stream else errors.upstream_unreachable())
        except Exception:
            log.exception("request_failed_twice", request_id=self._request.id)
            self._client.abort()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever goes wrong ends this request, and nothing else."""
        try:
            yield
        except Undecodable as error:
            self.on_unusable(str(error))
        except Exception as fault:  # noqa: BLE001 - whatever it is, the client is to hear of it
            self.on_crash(fault)

    def _forward(self, machine: MachineRecord) -> None:
        assert machine.endpoint is not None, "a ready machine has an endpoint"
        self.machine = self._tally.machine = machine
        self._tally.forwarded_at = self._tally.forwarded_at or self._door.now()
        key = self._door.engine_keys.find(machine.machine, machine.endpoint)
        request = engine_request(machine.endpoint, self._endpoint, self._request, self._asked, self._model, key=key)
        self._call = self._door.engines.call(machine.endpoint, request, self)

    def _move(self) -> bool:
        """To another machine, once, before anything of an answer has gone to the client."""
        assert self.machine is not None, "who moves was somewhere"
        now = self._door.now()
        if not self._may_move:
            return False
        self._may_move = False
        another = self._door.scheduler.acquire(self._model.name, self._tally.key_id, now, exclude=self.machine.machine)
        if another is None:
            return False
        self.hang_up()
        self._tally.on_failover()
        self._door.machine_left(self.machine.machine)
        self._door.metrics.failovers += 1
        self._tally.status = 0
        self._forward(another)
        return True

    def _on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        self._tally.status = status
        if is_machine_failure(status):
            self._blame(str(status))
            if self._move():
                return discard
        coding = headers.get(b"content-encoding", IDENTITY).strip().lower()
        inflater = Inflater(coding) if coding != IDENTITY else None
        self._asked.body = b""  # it is not sent again, and a long stream need not hold it
        self._request.drop_body()
        is_stream = status < 300 and headers.get(b"content-type", b"").lower().startswith(EVENT_STREAM)
        fields, held = passed_on(headers, stream=is_stream), Held(self._door.memory, self._tally.key_id)
        answer = self._answer = self._stream() if is_stream else WholeAnswer(fields, self._door.now(), held, self)
        if is_stream:
            self._owner.start_stream(fields)
        if inflater is None:
            return answer.feed
        self._inflating = Inflating(inflater, answer, self, self._call)
        return self._inflating.feed

    def _stream(self) -> StreamAnswer:
        asked, gateway, metrics = self._asked, self._door.config.gateway, self._door.metrics
        reader = StreamReader(
            wants_usage=asked.wants_usage,
            wants_running_usage=asked.wants_running_usage,
            endpoint=self._endpoint,
            choices=asked.choices,
            several_prompts=asked.several_prompts,
            max_event_bytes=gateway.max_event_bytes,
        )
        return StreamAnswer(self._client, self._request, reader, self, gap=metrics.chunk_gap, now=self._door.now)

    def _on_end(self) -> None:
        answer = self._answer
        if self._inflating is not None and not self._inflating.complete:
            self.on_lost("its content coding has no end", unreachable=False)
        elif isinstance(answer, StreamAnswer):
            answer.end()
            if answer.complete:
                self._owner.finish_stream()
            elif self._answer is not None:  # else it was unusable
                self.on_lost("its stream has no end", unreachable=False)
        else:
            assert answer is not None, "an answer's end comes after its head"
            if self._tally.status < 300:
                self._judge(answer.verdict.error)
            else:
                self._tally.machine_answered = not is_machine_failure(self._tally.status)
            self._owner.finish_whole(answer)

    def _on_lost(self, reason: str, *, unreachable: bool) -> None:
        """The engine died, or says what is no answer."""
        answer = self._answer
        if isinstance(answer, StreamAnswer) and (answer.complete or answer.told_error):
            self._owner.finish_stream()  # it died after its last word
            return
        if not is_machine_failure(self._tally.status):  # else it has been blamed when its head came
            self._blame(reason, unreachable=unreachable)
        if isinstance(answer, StreamAnswer):
            self._tally.outcome = "engine_lost"
            self._owner.fail(errors.engine_lost())
        elif answer is not None or not self._move():
            self._owner.fail(errors.upstream_unreachable())

    def _judge(self, error: EngineError | None) -> None:
        """By what the engine said."""
        if error is None:
            self._tally.outcome, self._tally.machine_answered = "completed", True
        elif error.refused:
            self._tally.machine_answered = True
        else:
            self._blame("an error in its answer")

    def _blame(self, reason: str, *, unreachable: bool = False) -> None:
        assert self.machine is not None, "what fails is a machine"
        machine, now, breaker = self.machine.machine, self._door.now(), self._door.scheduler.breaker
        log.warning("engine failed", machine=machine, reason=reason, request_id=self._request.id)
        if unreachable:
            breaker.on_unreachable(machine, now)
        else:
            breaker.on_failure(machine, self._tally.key_id, now)
