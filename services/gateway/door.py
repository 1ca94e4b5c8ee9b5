"""What every request shares: the books, the views, the ways out. One per process, made by `wiring`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.gateway.access_log import AccessLog
from services.gateway.adapters.activity import ActivityReporter
from services.gateway.adapters.demand import Demand
from services.gateway.adapters.engine_client import EngineClient
from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.quota_gossip import QuotaGossip
from services.gateway.adapters.usage_sender import UsageSender
from services.gateway.core import errors
from services.gateway.core.memory import Memory
from services.gateway.core.rate_limits import RateLimiter, Reservation
from services.gateway.core.request_body import LARGE_BYTES, ParsedRequest, parse, parse_in_steps
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.usage_record import UsageRecord
from services.gateway.core.wake_limits import WakeLimits
from services.gateway.metrics import Metrics
from services.gateway.step_runner import StepRunner
from shared.budget import GateView
from shared.bus.view import View
from shared.config import Config, Model
from shared.engine_keys import EngineKeys
from shared.messages.keys import KeyRecord, digest
from shared.messages.waker import MachineRecord

RELEASE_SLICE = 64
"""Grants in one go: ten thousand forwarded at once would keep everybody else waiting for a third of a second."""


class Running(Protocol):
    """A request under way, as the clock and the drain see it."""

    def account(self) -> None: ...

    def leave(self) -> None: ...

    def cut(self) -> None: ...


@dataclass(kw_only=True)
class Door:
    """Shared by all requests of this process. `now` is Unix seconds."""

    config: Config
    scheduler: RequestScheduler
    fleet: View[MachineRecord]
    keys: View[KeyRecord]
    gates: GateView
    demand: Demand
    activity: ActivityReporter
    engines: EngineClient
    engine_keys: EngineKeys
    outbox: Outbox
    sender: UsageSender
    limiter: RateLimiter
    wake_limits: WakeLimits
    gossip: QuotaGossip
    metrics: Metrics
    access_log: AccessLog
    now: Callable[[], float]
    memory: Memory = field(init=False)
    """Bodies, and responses until they are read."""
    steps: StepRunner[ParsedRequest] = field(default_factory=StepRunner)
    leaving: bool = False
    exchanges: set[Running] = field(default_factory=set)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    models: dict[str, Model] = field(init=False)
    _releasing: bool = False
    _started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._started_at = self.now()
        self.models = self.config.models
        gateway = self.config.gateway
        self.memory = Memory(gateway.max_buffered_bytes, gateway.max_buffered_bytes_per_key)

    def authorize(self, header: bytes | None) -> KeyRecord:
        """The key of an `Authorization` header, or 401."""
        key = self.key_of(header)
        if key is None:
            raise errors.invalid_api_key()
        return key

    def key_of(self, header: bytes | None) -> KeyRecord | None:
        """The key of an `Authorization` header, if that may be used."""
        scheme, _, secret = (header or b"").partition(b" ")
        record = self.keys.get(digest(secret.strip())) if secret and scheme.lower() == b"bearer" else None
        return record if record is not None and record.usable(self.now()) else None

    def parse(self, body: bytes, request: Running, on_done: Callable[[ParsedRequest | Exception], None]) -> None:
        """Call `on_done` with the parsed body, or with what is wrong with it: at once unless the body is large."""
        if len(body) > LARGE_BYTES:
            self.steps.add(parse_in_steps(body), is_wanted=lambda: request in self.exchanges, on_done=on_done)
            return
        try:
            asked = parse(body)
        except Exception as error:  # noqa: BLE001 - the request ends with it
            on_done(error)
        else:
            on_done(asked)

    def model(self, name: str, key: KeyRecord) -> Model:
        """The model of that name, or 404, or 403."""
        model = self.models.get(name)
        if model is None:
            raise errors.model_not_found(name)
        if not key.allows(name):
            raise errors.model_not_allowed(name)
        return model

    def admit(self, model: str) -> None:
        """Whether anything new may be served of it."""
        if self.leaving:
            raise errors.leaving()
        if fault := self.outbox.fault:
            raise errors.outbox_full(fault)
        if reason := self.gates.model(model, self.now()):
            raise self._gate_closed(reason)

    def on_fleet_change(self, machine: str) -> None:
        """A machine's record changed: whoever waited for it goes, and a drain is acknowledged."""
        record = self.fleet.get(machine)
        if record is None or record.state != "ready":
            self.scheduler.breaker.reset(machine)
        self.release()
        self.activity.changed()

    def machine_left(self, machine: str) -> None:
        """A request has ended on the machine."""
        last = self.scheduler.release(machine, self.now())
        self.release()
        if last:
            self.activity.changed()

    def release(self) -> None:
        """Grant what can be granted, a slice now and the rest in the next turns of the loop."""
        if self.scheduler.total_waiting and not self._releasing and self.scheduler.dispatch(self.now(), RELEASE_SLICE):
            self._releasing = True
            asyncio.get_running_loop().call_soon(self._release_more)

    def look_at_gates(self) -> None:
        """After a change of the gates, and every second, for they grow old: whoever waits for nothing is told so."""
        now = self.now()
        for model in self.scheduler.waiting_models():
            if reason := self.gates.model(model, now):
                for ticket in self.scheduler.evict(model, RELEASE_SLICE):
                    ticket.on_refuse(self._gate_closed(reason))
                if self.scheduler.has_waiting(model):
                    asyncio.get_running_loop().call_soon(self.look_at_gates)
                    return
        self.release()

    def _gate_closed(self, reason: str) -> errors.ApiError:
        """The error for a gate's reason: to be retried while this process is younger than an observation may become."""
        age = self.now() - self._started_at
        return errors.budget_closed(reason, is_starting=age <= self.config.billing.observation_timeout)

    def _release_more(self) -> None:
        self._releasing = False
        self.release()

    def limit_fields(self, key: KeyRecord) -> bytes:
        """Header lines that tell how the key stands; none for a key without limits."""
        return self.limiter.headers(key, self.now()) if key.limited else b""

    def record(self, tally: UsageRecord, use: Reservation | None) -> None:
        """One request's usage: on disk when this returns, on its way to the ledger."""
        seq = self.outbox.next_seq
        event = tally.event(self.outbox.source, seq, self.now())
        self.outbox.append(event)
        self.sender.wake()
        if use is not None:
            served = 0 if event.outcome == "failed" else event.prompt_tokens + event.completion_tokens
            use.settle(served, event.completed_at, seq)
        if tally.machine_answered:
            self.scheduler.breaker.reset(event.machine)
        self.metrics.count(event)

    async def drain(self, grace: float) -> None:
        """Held requests are sent elsewhere at once; running ones have `grace` seconds, then one error event."""
        self.leaving = True
        for exchange in list(self.exchanges):
            exchange.leave()
        try:
            async with asyncio.timeout(grace):
                while self.exchanges:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            for exchange in list(self.exchanges):
                exchange.cut()

    def ended(self, exchange: Running) -> None:
        """It needs nothing any more."""
        self.exchanges.discard(exchange)
        self._ended.set()
