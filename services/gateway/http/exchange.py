"""One request from its body to its usage event: check, admit, place, forward, relay, count.

It is called by its client's connection, by the one who grants places and by the engine's connection, and it calls them;
it never waits. A piece of a stream goes to the client's socket in the turn of the loop in which it came.
"""

from collections.abc import Callable

import structlog

from services.gateway.adapters.engine_connection import nobody
from services.gateway.adapters.engines import Call
from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.memory import Held
from services.gateway.core.request import Asked
from services.gateway.core.tally import Tally
from services.gateway.door import Door
from services.gateway.http.admission import Admission
from services.gateway.http.answer import EVENT_STREAM, STREAM_FIELDS, StreamAnswer, WholeAnswer, stream_reader
from services.gateway.http.connection import ClientConnection
from services.gateway.http.engine_request import engine_request
from services.gateway.http.request import Request
from services.gateway.http.told import CLIENT_CLOSED, told
from services.gateway.http.waiting import wake_limit
from shared.config import Model
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord

log = structlog.get_logger()


class Exchange:
    """One request. `leave` and `cut` end it early while the gateway drains."""

    __slots__ = (
        "_admission",
        "_answer",
        "_asked",
        "_call",
        "_client",
        "_door",
        "_key",
        "_machine",
        "_may_move",
        "_model",
        "_path",
        "_recorded",
        "_request",
        "_started",
        "_tally",
    )

    def __init__(self, door: Door, client: ClientConnection, request: Request, key: KeyRecord, path: str) -> None:
        self._door = door
        self._client = client
        self._request = request
        self._key = key
        self._path = path
        self._tally = Tally(request.id, key.id, request.arrived)
        self._asked: Asked
        self._model: Model
        self._admission: Admission | None = None
        self._machine: MachineRecord | None = None
        self._call: Call | None = None
        self._may_move = True
        self._answer: StreamAnswer | WholeAnswer | None = None
        self._started = False
        """Whether the status line of a stream has gone out."""
        self._recorded = False

    # From the client's connection.

    def receive(self, body: bytes) -> None:
        self._door.exchanges.add(self)
        self._door.parse(body, self, self._begin)

    def _begin(self, parsed: Callable[[], Asked]) -> None:
        """Check what is asked, and find it a place."""
        door = self._door
        try:
            self._asked = parsed()
            self._model = door.model(self._asked.model, self._key)
            self._tally.asked(self._model.name, streamed=self._asked.stream, choices=self._asked.choices)
            door.admit(self._model.name)
            wait = wake_limit(self._request.header(b"x-wake-timeout"), door.config.gateway.hold_cap)
            self._admission = Admission(
                door,
                self._request,
                self._key,
                self._model,
                asked=self._asked,
                tally=self._tally,
                on_place=self._forward,
                on_word=self._say,
                on_fail=self._fail,
            )
            self._admission.begin(wait)
        except ApiError as error:
            self._fail(error)
        except Exception:  # whatever it is, it is ours, and what the request holds is to be given back
            log.exception("a fault of ours", request_id=self._request.id)
            self._fail(errors.internal_error())

    def gone(self) -> None:
        if not self._recorded:
            self._tally.outcome = "client_closed"
        self._settle(CLIENT_CLOSED, "")

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    # From the front's clock.

    def account(self) -> None:
        """Tokens so far, against the key's limits."""
        use = self._admission.use if self._admission is not None else None
        if use is not None and isinstance(self._answer, StreamAnswer):
            use.running((count := self._answer.count).prompt + count.completion)

    # From the drain.

    def leave(self) -> None:
        """A request that no engine has yet tries elsewhere."""
        if self._machine is None:
            self._fail(errors.leaving())

    def cut(self) -> None:
        """The grace is over. What was delivered is served."""
        self._tally.outcome = "engine_lost"
        self._fail(errors.leaving())

    # On its way to an engine.

    def _forward(self, machine: MachineRecord) -> None:
        assert machine.endpoint is not None, "a ready machine has an endpoint"
        self._machine = self._tally.machine = machine
        self._tally.forwarded_at = self._tally.forwarded_at or self._door.now()
        key = self._door.engine_keys.find(machine.machine, machine.endpoint)
        request = engine_request(machine.endpoint, self._path, self._request, self._asked, self._model, key=key)
        self._call = self._door.engines.call(machine.endpoint, request, self)

    def _move(self) -> bool:
        """To another machine, once, before anything of an answer has gone to the client."""
        assert self._machine is not None, "who moves was somewhere"
        now = self._door.now()
        if not self._may_move:
            return False
        self._may_move = False
        another = self._door.hold.take(self._model.name, now, besides=self._machine.machine)
        if another is None:
            return False
        self._hang_up()
        self._tally.moves()
        self._door.machine_left(self._machine.machine)
        self._door.metrics.failovers += 1
        self._tally.status = 0
        self._forward(another)
        return True

    # From the engine.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        assert self._machine is not None, "an answer comes from a machine"
        self._tally.status = status
        if status >= 500:
            log.warning("engine failed", machine=self._machine.machine, reason=status, request_id=self._request.id)
            self._door.hold.breaker.on_failure(self._machine.machine, self._door.now())
            if self._move():
                return nobody
        self._asked.body = b""  # it is not sent again, and a long stream need not hold it
        self._request.drop_body()
        content_type = headers.get(b"content-type", b"application/json")
        if status >= 300 or not content_type.startswith(EVENT_STREAM):
            held = Held(self._door.memory, self._key.id)
            self._answer = WholeAnswer(content_type, self._door.now(), held, self._engine_failed, self._fail)
            return self._answer.feed
        reader = stream_reader(self._asked, self._path)
        gap, now = self._door.metrics.chunk_gap, self._door.now
        self._answer = StreamAnswer(
            self._client, self._request, reader, gap, now, on_complete=self._on_complete, on_fault=self._engine_failed
        )
        self._start()
        return self._answer.feed

    def on_end(self) -> None:
        answer = self._answer
        if isinstance(answer, StreamAnswer):
            answer.end()
            if answer.complete:
                self._end_stream()
            else:
                self._engine_failed("its stream has no end")
            return
        assert answer is not None, "an answer's end comes after its head"
        status = self._tally.status
        if status < 300:
            self._tally.outcome = "completed"
        # Before the client has it: what it has whole is counted, whatever happens then.
        self._settle(status, "", keeps_answer=True)
        if self._started:
            self._client.send(self._request, answer.as_event())
            self._client.end(self._request)
            answer.held.release()
        else:
            fields = b"Content-Type: %b\r\n%b" % (answer.content_type, self._door.limit_fields(self._key))
            self._client.respond(self._request, status, fields, answer.body, answer.held.release)

    def on_lost(self, reason: str) -> None:
        self._engine_failed(reason)

    def _on_complete(self) -> None:
        self._tally.outcome = "completed"
        self._record()

    def _engine_failed(self, reason: str) -> None:
        """The engine died, or says what is no answer."""
        assert self._machine is not None, "what fails is a machine"
        machine = self._machine.machine
        if isinstance(self._answer, StreamAnswer) and self._answer.complete:
            self._end_stream()  # it died after its last word
            return
        if self._tally.status < 500:  # else it has been counted when its head came
            self._door.hold.breaker.on_failure(machine, self._door.now())
        log.warning("engine failed", machine=machine, reason=reason, request_id=self._request.id)
        if isinstance(self._answer, StreamAnswer):
            self._tally.outcome = "engine_lost"
            self._fail(errors.engine_lost())
        elif self._answer is not None or not self._move():
            self._fail(errors.upstream_unreachable())

    # To the client.

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._client.start(self._request, 200, STREAM_FIELDS + self._door.limit_fields(self._key))

    def _say(self, comment: bytes) -> None:
        """To one who waits for a wake."""
        self._start()
        self._client.send(self._request, comment)

    def _end_stream(self) -> None:
        self._settle(200, "")
        self._client.end(self._request)

    def _fail(self, error: ApiError) -> None:
        """The end, with an error of ours."""
        if self._started:
            self._settle(200, error.code)
            self._client.send(self._request, error.event())
            self._client.end(self._request)
        else:
            self._settle(error.status, error.code)
            fields = error.fields() + self._door.limit_fields(self._key)
            self._client.respond(self._request, error.status, fields, error.body())

    # The accounts.

    def _hang_up(self) -> None:
        """The engine stops working for this request, if it still did."""
        call, self._call = self._call, None
        if call is not None:
            self._tally.written = self._tally.written or call.written
            call.abort()

    def _record(self) -> None:
        """One usage event, for whatever an engine may have worked for."""
        if self._call is not None:
            self._tally.written = self._tally.written or self._call.written
        if self._recorded or self._machine is None or not self._tally.written:
            return
        self._recorded = True
        if self._answer is not None:
            self._tally.first_byte_at = self._answer.first_at
            if self._tally.status < 300:
                self._tally.count = self._answer.count
        self._door.record(self._tally, self._admission.take_use() if self._admission else None)

    def _settle(self, status: int, code: str, *, keeps_answer: bool = False) -> None:
        """All that the request held is given back; nobody calls it any more."""
        door = self._door
        if isinstance(self._answer, WholeAnswer) and not keeps_answer:
            self._answer.held.release()
        self._record()
        self._hang_up()
        if self._admission is not None:
            self._admission.end()
        self._admission = self._answer = None  # they hold our methods: so the collector has nothing to find
        door.ended(self)
        machine, self._machine = self._machine, None
        if machine is not None:
            door.machine_left(machine.machine)
        told(door, self._request, status, code, key_id=self._key.id, tally=self._tally)
