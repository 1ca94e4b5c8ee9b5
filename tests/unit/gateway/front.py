"""The gateway's front in one process: its real parts, with a client's transport, engines and a disk that tests play."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

from aiohttp import web
from prometheus_client import CollectorRegistry

from services.gateway.adapters.access_log import AccessLog, RequestLine
from services.gateway.adapters.engine_client import EngineCall, EngineClient, Receiver
from services.gateway.adapters.http.application import make_application
from services.gateway.adapters.http.client_connection import ClientConnection
from services.gateway.adapters.http.client_response import ClientResponse, ResponseHeaders
from services.gateway.adapters.http.connections import Connections
from services.gateway.adapters.http.exchange import Exchange
from services.gateway.adapters.http.inference import Inference
from services.gateway.adapters.http.request_log import RequestLog
from services.gateway.adapters.http.resources import Resources
from services.gateway.adapters.http.upstream import Upstream
from services.gateway.adapters.wake_demand import WakeDemand
from services.gateway.adapters.write_batcher import WriteBatcher
from services.gateway.app.admission import Admission
from services.gateway.app.authenticator import Authenticator
from services.gateway.app.dispatcher import Dispatcher
from services.gateway.app.lifecycle import Lifecycle
from services.gateway.app.usage_recorder import UsageRecorder
from services.gateway.core.buffer_memory import BufferMemory
from services.gateway.core.machine_quota import MachineQuota
from services.gateway.core.rate_limits import RateLimiter
from services.gateway.core.response_counts import ResponseCounts
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.wake_limits import WakeLimits
from services.gateway.metrics import Metrics
from shared.budget_gates import GateView
from shared.bus.memory import MemoryBus
from shared.bus.view import View
from shared.config.load import parse
from shared.config.sections import Config
from shared.engine_keys import EngineKeys
from shared.messages.gateway import UsageEvent
from shared.messages.keys import KeyRecord, digest
from shared.messages.waker import MachineRecord, MachineState
from tests.unit.gateway.wire import SECRET, Fault, Wire, post, turns

CONFIG = """
    [gateway]
    max_waiting = 6
    max_waiting_per_key = 4
    hold_cap = "60s"
    [[tier]]
    name = "spot"
    provider = "static"
    max_concurrency = 2
    [[machine]]
    id = "s1"
    tier = "spot"
    endpoint = "http://127.0.0.1:1"
    [[machine]]
    id = "s2"
    tier = "spot"
    endpoint = "http://127.0.0.1:2"
    [[model]]
    name = "m"
    lineup = ["spot"]
    [[model]]
    name = "secret"
    lineup = ["spot"]
    """
KEY = KeyRecord(id="k", name="k", created_at=0.0, models=("m",), concurrency=100, tokens_per_minute=10**6)
NOON = 1_780_000_000.0


@dataclass(eq=False)
class Call:
    """One to an engine, which the test plays."""

    origin: str
    receiver: Receiver
    written: bool = True
    aborted: bool = False
    paused: bool = False
    is_over: bool = False
    """Whether its answer has ended by itself."""
    has_head: bool = False
    feed: Callable[[bytes], None] = field(init=False)

    def abort(self) -> None:
        self.aborted = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def answer(self, status: int = 200, content_type: bytes = b"text/event-stream", **headers: bytes) -> None:
        named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        self.has_head = True
        self.feed = self.receiver.on_head(status, {b"content-type": content_type, **named})


class Fleet(dict[str, MachineRecord]):
    """The view of the machines."""

    def age(self, _machine: str) -> float:
        return 0.0

    def put(self, machine: str, state: MachineState) -> None:
        self[machine] = MachineRecord(
            machine=machine,
            tier="spot",
            state=state,
            provider_state="",
            endpoint=f"http://127.0.0.1:{machine[1:]}",
            generation=1,
            since=0.0,
            reason="",
        )


class Gates:
    """A budget gate: `reason` closes it."""

    reason: str | None = None

    def model_closed_reason(self, _model: str, _now: float) -> str | None:
        return self.reason

    def tier_closed_reason(self, _tier: str, _now: float) -> str | None:
        return None


class Books:
    """An outbox in memory."""

    source = "gw"

    def __init__(self) -> None:
        self.events: list[UsageEvent] = []
        self.fault: str | None = None
        self.breaks = False
        self.on_event: Callable[[UsageEvent], None] = lambda _event: None

    @property
    def next_seq(self) -> int:
        return len(self.events) + 1

    def append(self, event: UsageEvent) -> None:
        if self.breaks:
            raise Fault("append")
        self.events.append(event)
        self.on_event(event)


class Lines(AccessLog):
    """Remembers."""

    def __init__(self) -> None:
        super().__init__("gateway", enabled=True)
        self.lines: list[RequestLine] = []

    def write(self, line: RequestLine, now: float) -> None:
        self.lines.append(line)


class Front:
    """All of it. Times are `time`, and `monotonic` for the connections' clock."""

    def __init__(
        self,
        config: str = CONFIG,
        key: KeyRecord = KEY,
        *,
        max_buffered_bytes: int = 2**30,
        quota: MachineQuota | None = None,
    ) -> None:
        self.config: Config = parse(config, "test")
        self.settings = self.config.gateway
        self.time, self.monotonic = NOON, 0.0
        self.fleet, self.gates, self.books, self.log = Fleet(), Gates(), Books(), Lines()
        self.calls: list[Call] = []
        self.breaks: set[str] = set()
        self.wires: list[Wire] = []
        self.is_ready = True
        self.keys = {digest(SECRET): key}
        now = self.now
        self.memory = BufferMemory(max_buffered_bytes, max_buffered_bytes)
        self.scheduler = RequestScheduler(self.config, self.fleet, quota=quota)
        self.limits = RateLimiter("gw", 0.0, {})
        self.metrics = Metrics(CollectorRegistry(), self.limits.hits)
        self.batcher = WriteBatcher()
        self.dispatcher = Dispatcher(
            self.scheduler,
            cast("View[MachineRecord]", self.fleet),
            cast("GateView", self.gates),
            config=self.config,
            now=now,
            on_activity_change=lambda: None,
        )
        self.demand = WakeDemand(MemoryBus(), self.scheduler, "gw", 5.0, now)
        self.admission = Admission(
            self.settings,
            self.scheduler,
            self.dispatcher,
            self.demand,
            self.books,
            limits=self.limits,
            wake_limits=WakeLimits(20, Decimal(20), {}),
            metrics=self.metrics,
            now=now,
        )
        self.lifecycle = Lifecycle()
        self.headers = ResponseHeaders(self.limits, None, is_leaving=lambda: self.lifecycle.is_leaving, now=now)
        self.responses = ResponseCounts("gw", self.time)
        self.request_log = RequestLog(self.log, self.metrics, self.responses, now)
        self.connections = Connections(
            self.settings,
            self.memory,
            self.batcher,
            open_response=self.open_response,
            log=self.request_log,
            monotonic=lambda: self.monotonic,
        )
        self.inference: Inference
        self.runner: web.AppRunner

    def now(self) -> float:
        return self.time

    def _upstream_now(self) -> float:
        self.may_break("now")
        return self.time

    def may_break(self, what: str) -> None:
        if what in self.breaks:
            raise Fault(what)

    def open_response(self, request: web.BaseRequest) -> ClientResponse:
        self.may_break("open_response")
        return ClientResponse(request, self.headers, self.batcher, self.now())

    def call(self, origin: str, _request: object, receiver: Receiver) -> EngineCall:
        self.may_break("call")
        self.calls.append(Call(origin, receiver))
        return cast("EngineCall", self.calls[-1])

    @property
    def exchange(self) -> Exchange:
        """The only one."""
        (exchange,) = self.lifecycle.exchanges
        return cast("Exchange", exchange)

    async def start(self) -> "Front":
        authenticator = Authenticator(self.config.models, self.keys, self.now)
        recorder = UsageRecorder(self.books, lambda: None, self.scheduler.breaker, self.metrics, self.now)
        upstream = Upstream(
            client=cast("EngineClient", self),
            keys=EngineKeys(self.config),
            scheduler=self.scheduler,
            dispatcher=self.dispatcher,
            recorder=recorder,
            memory=self.memory,
            metrics=self.metrics,
            max_event_bytes=self.settings.max_event_bytes,
            now=self._upstream_now,
        )
        self.inference = Inference(
            authenticator,
            self.admission,
            upstream,
            self.lifecycle,
            self.request_log,
            memory=self.memory,
            max_body_bytes=self.settings.max_body_bytes,
            hold_cap=self.settings.hold_cap,
            open_response=self.open_response,
        )
        pages = Resources(
            self.config,
            authenticator,
            self.lifecycle,
            self.fleet,
            self.request_log,
            cors=None,
            started=NOON,
            is_ready=lambda: self.is_ready,
            open_response=self.open_response,
        )
        self.runner = web.AppRunner(make_application(self.inference, pages), handler_cancellation=True)
        await self.runner.setup()
        return self

    async def stop(self) -> None:
        for wire in self.wires:
            wire.abort()
        await turns()
        await self.runner.cleanup()

    def connect(self, address: str = "192.0.2.1") -> Wire:
        assert self.runner.server is not None
        self.wires.append(Wire(address).connect(ClientConnection(self.runner.server, self.connections)))
        return self.wires[-1]

    async def ask(self, body: bytes = b'{"model":"m","stream":true}', *headers: bytes) -> Wire:
        """Send a request on a new connection."""
        wire = self.connect()
        wire.send(post(body, *headers))
        await turns(8)
        return wire

    def check(self, *, lines: int = 1) -> None:
        """Nothing is left of the requests so far, and each has its line."""
        assert (self.scheduler.total_in_flight, self.scheduler.total_waiting) == (0, 0)
        assert all(self.scheduler.in_flight(machine.id) == 0 for machine in self.config.machine)
        assert self.memory.used == 0
        assert not self.lifecycle.exchanges
        assert self.connections._idle.keys() <= self.connections._all
        assert all(usage.running == usage.minute_held == usage.month_held == 0 for usage in self.limits._keys.values())
        assert len(self.log.lines) == lines
        ids = [event.id for event in self.books.events]
        assert len(set(ids)) == len(ids)
        assert all(wire.protocol.flow is None for wire in self.wires)
