"""The engines of this process: where requests are sent, and the books that are kept of it."""

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
    """What all relays share. `now` is Unix seconds."""

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
        """Send a client's request to a machine; the receiver gets what the engine answers."""
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
        """Return what reads an engine's stream for a client that asked so."""
        return StreamReader(
            wants_usage=body.wants_usage,
            wants_running_usage=body.wants_running_usage,
            endpoint=endpoint,
            choices=body.choices,
            several_prompts=body.several_prompts,
            max_event_bytes=self.max_event_bytes,
        )

    def report_failure(self, machine: str, usage: UsageRecord, reason: str, *, unreachable: bool) -> None:
        """Count a failure of the machine."""
        log.warning("engine failed", machine=machine, reason=reason, request_id=usage.request_id)
        if unreachable:
            self.scheduler.breaker.on_unreachable(machine, self.now())
        else:
            self.scheduler.breaker.on_failure(machine, usage.key_id, self.now())
