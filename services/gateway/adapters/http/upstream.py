"""What all relays of this process share: the engine client, the scheduler and the recorder."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from services.gateway.adapters.engine_client import EngineCall, EngineClient, Receiver
from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.adapters.http.engine_request import engine_request
from services.gateway.app.dispatcher import Dispatcher
from services.gateway.app.usage_recorder import UsageRecorder
from services.gateway.core.buffer_memory import BufferMemory
from services.gateway.core.endpoints import Endpoint
from services.gateway.core.request_body import ParsedRequest
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.stream import StreamReader
from services.gateway.core.usage_record import UsageRecord
from services.gateway.metrics import Metrics
from shared.config.fleet import Model
from shared.engine_keys import EngineKeys
from shared.messages.waker import MachineRecord

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """Sends requests to engines, for all relays. `now` is Unix seconds."""

    client: EngineClient
    keys: EngineKeys
    scheduler: RequestScheduler
    dispatcher: Dispatcher
    recorder: UsageRecorder
    memory: BufferMemory
    metrics: Metrics
    max_event_bytes: int
    now: Callable[[], float]

    def send(
        self,
        machine: MachineRecord,
        endpoint: Endpoint,
        body: ParsedRequest,
        model: Model,
        *,
        response: ClientResponse,
        receiver: Receiver,
    ) -> EngineCall:
        """Send a client's request to a machine; the receiver gets the engine's response."""
        assert machine.endpoint is not None, "a ready machine has an endpoint"
        request = engine_request(
            machine.endpoint,
            endpoint,
            body,
            model,
            headers=response.request.headers,
            request_id=response.id,
            key=self.keys.find(machine.machine, machine.endpoint),
        )
        return self.client.call(machine.endpoint, request, receiver)

    def stream_reader(self, body: ParsedRequest, endpoint: Endpoint) -> StreamReader:
        """Return the reader of an engine's stream for this request."""
        return StreamReader(
            wants_usage=body.wants_usage,
            wants_running_usage=body.wants_running_usage,
            endpoint=endpoint,
            choices=body.choices,
            several_prompts=body.several_prompts,
            max_event_bytes=self.max_event_bytes,
        )

    def report_failure(self, machine: str, usage: UsageRecord, reason: str, *, unreachable: bool) -> None:
        """Log a failure of the machine and count it in the circuit breaker."""
        log.warning("engine_failed", machine=machine, reason=reason, request_id=usage.request_id)
        if unreachable:
            self.scheduler.breaker.on_unreachable(machine, self.now())
        else:
            self.scheduler.breaker.on_failure(machine, usage.key_id, self.now())
