"""One request from its body to its usage event: check, admit, place, relay, count.

It is called by its client's connection, by the one who grants places and by the relay of its engine's answer, and it
calls them; it never waits. A piece of a stream goes to the client's socket in the turn of the loop in which it came.
"""

import structlog

from services.gateway.core import errors
from services.gateway.core.endpoints import Endpoint
from services.gateway.core.errors import ApiError
from services.gateway.core.request_body import ParsedRequest
from services.gateway.core.usage_record import UsageRecord
from services.gateway.door import Door
from services.gateway.http.admission import Admission
from services.gateway.http.answer import WholeAnswer
from services.gateway.http.connection import ClientConnection
from services.gateway.http.relay import Relay
from services.gateway.http.request import Request
from services.gateway.http.response_headers import passed_on
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
        "_asked",
        "_client",
        "_door",
        "_endpoint",
        "_key",
        "_model",
        "_recorded",
        "_relay",
        "_request",
        "_started",
        "_tally",
    )

    def __init__(
        self, door: Door, client: ClientConnection, request: Request, key: KeyRecord, endpoint: Endpoint
    ) -> None:
        self._door = door
        self._client = client
        self._request = request
        self._key = key
        self._endpoint = endpoint
        self._tally = UsageRecord(request.id, key.id, request.arrived)
        self._asked: ParsedRequest
        self._model: Model
        self._admission: Admission | None = None
        self._relay: Relay | None = None
        self._started = False
        """Whether the status line of a stream has gone out."""
        self._recorded = False

    # From the client's connection.

    def receive(self, body: bytes) -> None:
        self._door.exchanges.add(self)
        self._door.parse(body, self, self._begin)

    def _begin(self, parsed: ParsedRequest | Exception) -> None:
        """Check what is asked, and find it a place."""
        door = self._door
        if isinstance(parsed, Exception):
            self._fail_with(parsed)
            return
        try:
            self._asked = parsed
            if parsed.background and self._endpoint.has_background_mode:
                # Its usage would come when nobody listens any more, and its result from a path that is not served.
                raise errors.invalid_request(
                    "background", "`background` is not supported: leave it out, or give false."
                )
            self._model = door.model(self._asked.model, self._key)
            self._tally.on_parsed(self._model.name, self._asked)
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
                on_fail=self.fail,
            )
            self._admission.begin(wait)
        except Exception as error:  # noqa: BLE001 - whatever it is, what the request holds is to be given back
            self._fail_with(error)

    def _fail_with(self, error: Exception) -> None:
        """A refusal, or a fault of ours."""
        if isinstance(error, ApiError):
            self.fail(error)
        else:
            log.error("a fault of ours", request_id=self._request.id, exc_info=error)
            self.fail(errors.internal_error())

    def gone(self) -> None:
        if not self._recorded:
            self._tally.outcome = "client_closed"
        self._settle(CLIENT_CLOSED, "")

    def pause(self) -> None:
        if self._relay is not None:
            self._relay.pause()

    def resume(self) -> None:
        if self._relay is not None:
            self._relay.resume()

    # From the front's clock.

    def account(self) -> None:
        """Tokens so far, against the key's limits."""
        use = self._admission.use if self._admission is not None else None
        if use is not None and self._relay is not None:
            running = self._relay.running
            use.update(running.prompt + running.completion)

    # From the drain.

    def leave(self) -> None:
        """A request that no engine has yet tries elsewhere."""
        if self._relay is None:
            self.fail(errors.leaving())

    def cut(self) -> None:
        """The grace is over. What was delivered is served."""
        self._tally.outcome = "engine_lost"
        self.fail(errors.leaving())

    # From the admission.

    def _forward(self, machine: MachineRecord) -> None:
        """A place on the machine is booked."""
        self._relay = Relay(
            self,
            self._door,
            self._client,
            self._request,
            asked=self._asked,
            model=self._model,
            endpoint=self._endpoint,
            tally=self._tally,
        )
        self._relay.forward(machine)

    def _say(self, comment: bytes) -> None:
        """To one who waits for a wake."""
        self.start_stream(passed_on({}, stream=True))
        self._client.send(self._request, comment)

    # From the relay. What is counted is counted before the client has it, whatever happens then.

    def start_stream(self, fields: bytes) -> None:
        if not self._started:
            self._started = True
            self._client.start(self._request, 200, fields + self._door.limit_fields(self._key))

    def record(self) -> None:
        """One usage event, for whatever an engine may have worked for."""
        if self._recorded or self._relay is None:
            return
        self._relay.sum_up()
        if self._tally.written:
            self._recorded = True
            self._door.record(self._tally, self._admission.take_use() if self._admission else None)

    def finish_stream(self) -> None:
        self._settle(200, "")
        self._client.end(self._request)

    def finish_whole(self, answer: WholeAnswer) -> None:
        if self._started and len(answer.body) > self._door.config.gateway.max_event_bytes:
            self._tally.outcome = "failed"
            self.fail(errors.upstream_unreachable())
            return
        status = self._tally.status
        self._settle(status, "", keeps_answer=True)
        if self._started:
            self._client.send(self._request, answer.as_event())
            self._client.end(self._request, answer.held.release)
        else:
            fields = answer.fields + self._door.limit_fields(self._key)
            self._client.respond(self._request, status, fields, memoryview(answer.body), answer.held.release)

    def fail(self, error: ApiError) -> None:
        """The end, with an error of ours."""
        if self._started:
            self._settle(200, error.code)
            self._client.send(self._request, error.event())
            self._client.end(self._request)
        else:
            self._settle(error.status, error.code)
            fields = error.fields() + self._door.limit_fields(self._key)
            self._client.respond(self._request, error.status, fields, error.body())

    def _settle(self, status: int, code: str, *, keeps_answer: bool = False) -> None:
        """All that the request held is given back; nobody calls it any more."""
        door = self._door
        try:
            self.record()
        except Exception:  # it keeps no place, nor the client waiting
            self._recorded = True
            log.exception("request_not_counted", request_id=self._request.id)
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.hang_up()
            relay.drop_answer(is_read=keeps_answer)
        if self._admission is not None:
            self._admission.end()
        self._admission = None  # it holds our methods: so the collector has nothing to find
        door.ended(self)
        if relay is not None and relay.machine is not None:
            door.machine_left(relay.machine.machine)
            relay.machine = None
        told(door, self._request, status, code, key_id=self._key.id, tally=self._tally)
