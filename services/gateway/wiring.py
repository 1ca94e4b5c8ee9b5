"""The one place that builds the gateway from its concrete classes."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from services.gateway.adapters.access_log import AccessLog
from services.gateway.adapters.activity_reporter import ActivityReporter
from services.gateway.adapters.engine_client import EngineClient
from services.gateway.adapters.gauges import add_gauges
from services.gateway.adapters.http.application import make_application
from services.gateway.adapters.http.client_connection import ClientConnection
from services.gateway.adapters.http.client_response import ClientResponse, ResponseHeaders
from services.gateway.adapters.http.connections import TICK_SECONDS, Connections
from services.gateway.adapters.http.inference import Inference
from services.gateway.adapters.http.listening import listen
from services.gateway.adapters.http.request_log import RequestLog
from services.gateway.adapters.http.resources import Resources
from services.gateway.adapters.http.upstream import Upstream
from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.outbox_folders import adopt_left_behind, outbox_folder
from services.gateway.adapters.quota_gossip import QuotaGossip
from services.gateway.adapters.response_reporter import ResponseReporter
from services.gateway.adapters.revocations import Revocations
from services.gateway.adapters.usage_sender import UsageSender
from services.gateway.adapters.view_snapshot import ViewSnapshot
from services.gateway.adapters.wake_demand import WakeDemand
from services.gateway.adapters.write_batcher import WriteBatcher
from services.gateway.app.admission import Admission
from services.gateway.app.authenticator import Authenticator
from services.gateway.app.dispatcher import Dispatcher
from services.gateway.app.lifecycle import Lifecycle
from services.gateway.app.usage_recorder import UsageRecorder
from services.gateway.core.buffer_memory import BufferMemory, buffer_bounds
from services.gateway.core.bus_absence import BusAbsence
from services.gateway.core.cors import Cors
from services.gateway.core.machine_quota import MachineQuota
from services.gateway.core.rate_limits import RateLimiter
from services.gateway.core.response_counts import ResponseCounts
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.wake_limits import WakeLimits
from services.gateway.metrics import Metrics
from shared.budget_gates import GateView
from shared.bus.topology import BUDGET, FLEET, MONTHS, WAKES
from shared.bus.view import View
from shared.config.sections import Config
from shared.engine_keys import EngineKeys
from shared.fleet_records import record_check
from shared.messages.budget import BudgetGate
from shared.messages.meter import KeyMonth
from shared.messages.waker import KeyWakes, MachineRecord
from shared.runtime.memory_limit import read_memory_limit
from shared.runtime.process import Runtime
from shared.tasks import cancel_and_wait

SEND_SECONDS = 3.0
"""Time to send the last usage events; the rest stays on disk for the next boot."""
LAST_BYTES_SECONDS = 1.0
"""Time for the last bytes to reach the clients, even if the grace period is over."""
COLLECT_EVERY = 50_000
"""Allocations between two garbage collections: requests leave no cycles behind, as every test of the process checks."""


@asynccontextmanager
async def service(runtime: Runtime) -> AsyncIterator[None]:
    """Run the gateway; leaving the context drains it."""
    gateway = await _Gateway.start(runtime)
    server = await listen(runtime, gateway.connection)
    runtime.spawn(gateway.run_clock(), "clock")
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 100)
    try:
        yield
    finally:
        await gateway.drain(server.close)


class _Gateway:
    """All parts of a running gateway."""

    absence: BusAbsence

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        config, settings, now = runtime.config, runtime.config.gateway, runtime.now
        folder = outbox_folder(runtime.data_dir, runtime.worker or 0)
        if not runtime.worker:
            adopt_left_behind(runtime.data_dir, runtime.workers)
        self.outbox = Outbox(folder, runtime.instance, max_bytes=settings.outbox_max_bytes)
        months: View[KeyMonth] = View(MONTHS, KeyMonth)
        wakes: View[KeyWakes] = View(WAKES, KeyWakes)
        self.revocations = Revocations(runtime.data_dir, is_writer=not runtime.worker, now=runtime.now)
        # The views exist before the dispatcher, which follows their changes.
        budget: View[BudgetGate] = View(BUDGET, BudgetGate, lambda _scope: self.dispatcher.check_gates())
        fleet: View[MachineRecord] = View(
            FLEET,
            MachineRecord,
            lambda machine: self.dispatcher.on_fleet_change(machine),  # noqa: PLW0108 - the dispatcher is built below
            check=lambda key, record: self.check_record(key, record),  # noqa: PLW0108 - a reload replaces it
        )
        self.check_record = record_check(config)
        self.fleet, self.budget = fleet, budget
        self.snapshot = self._snapshot(fleet, self.revocations.keys, budget, months, wakes)
        self.engine_keys = EngineKeys(config)
        gates = GateView(config, budget, budget.age)
        self.limits = limits = RateLimiter(runtime.instance, now(), months)
        quota = MachineQuota(limits.coordinator, limits.notify_peers)
        self.scheduler = RequestScheduler(config, fleet, gates if gates.limited_scopes else None, quota)
        limits.shared_usage = self.scheduler.machine_usage
        self.memory = BufferMemory(*buffer_bounds(settings, runtime.workers, read_memory_limit()))
        self.metrics = Metrics(runtime.registry, limits.hits)
        self.access_log = AccessLog(runtime.service, enabled=settings.access_log)
        self.metrics.unlogged = lambda: self.access_log.unlogged
        self.batcher = WriteBatcher(self.outbox.write_pending)
        self.engines = EngineClient(settings, self.batcher)
        self.reporter = ResponseReporter(runtime.bus, ResponseCounts(runtime.instance, now()), folder)
        self.sender = UsageSender(runtime.bus, self.outbox, runtime.monotonic, limits.on_confirmed)
        self.sender.on_restart = self.reporter.counts.publish_again
        self.gossip = QuotaGossip(runtime.bus, limits, runtime.instance, now)
        self.demand = WakeDemand(runtime.bus, self.scheduler, runtime.instance, settings.wake_repeat, now)
        self.activity = ActivityReporter(
            runtime.bus,
            self.scheduler,
            runtime.instance,
            revision=fleet.revision,
            last_seq=lambda: self.outbox.next_seq - 1,
            now=now,
        )
        self.dispatcher = Dispatcher(
            self.scheduler, fleet, gates, config=config, now=now, on_activity_change=self.activity.changed
        )
        self.lifecycle = Lifecycle()
        self.cors = Cors(settings.cors_origins) if settings.cors_origins else None
        self.headers = ResponseHeaders(limits, self.cors, is_leaving=lambda: self.lifecycle.is_leaving, now=now)
        self.request_log = RequestLog(self.access_log, self.metrics, self.reporter.counts, now)
        self.authenticator = Authenticator(config.models, self.revocations.keys, now)
        self.connections = Connections(
            settings,
            self.memory,
            self.batcher,
            open_response=self.open_response,
            log=self.request_log,
            monotonic=runtime.monotonic,
        )
        wake_limits = WakeLimits(settings.wakes_per_hour, settings.wake_cost_per_day, wakes)
        self.resources = self._resources(fleet)
        application = make_application(self._inference(limits, wake_limits), self.resources)
        self.runner = web.AppRunner(application, handler_cancellation=True)
        self.sending: list[asyncio.Task[None]] = []

    def _snapshot(self, *views: View[Any]) -> ViewSnapshot:
        runtime = self.runtime
        folder, max_age_s = runtime.data_dir / "gateway" / "snapshot", runtime.config.bus.max_view_age
        return ViewSnapshot(folder, runtime.bus, runtime.bus_name, views, max_age_s=max_age_s, now=runtime.now)

    def _inference(self, limits: RateLimiter, wake_limits: WakeLimits) -> Inference:
        settings, now = self.runtime.config.gateway, self.runtime.now
        admission = Admission(
            settings,
            self.scheduler,
            self.dispatcher,
            self.demand,
            self.outbox,
            limits=limits,
            wake_limits=wake_limits,
            metrics=self.metrics,
            now=now,
        )
        upstream = Upstream(
            client=self.engines,
            keys=self.engine_keys,
            scheduler=self.scheduler,
            dispatcher=self.dispatcher,
            recorder=UsageRecorder(self.outbox, self.sender.wake, self.scheduler.breaker, self.metrics, now),
            memory=self.memory,
            metrics=self.metrics,
            max_event_bytes=settings.max_event_bytes,
            now=now,
        )
        return Inference(
            self.authenticator,
            admission,
            upstream,
            self.lifecycle,
            self.request_log,
            memory=self.memory,
            max_body_bytes=settings.max_body_bytes,
            hold_cap=settings.hold_cap,
            open_response=self.open_response,
        )

    def _resources(self, fleet: View[MachineRecord]) -> Resources:
        return Resources(
            self.runtime.config,
            self.authenticator,
            self.lifecycle,
            fleet,
            self.request_log,
            cors=self.cors,
            started=self.runtime.now(),
            is_ready=lambda: not self.runtime.health.faults(),
            open_response=self.open_response,
        )

    @classmethod
    async def start(cls, runtime: Runtime) -> "_Gateway":
        self = cls(runtime)
        snapshot_age_s = await self.snapshot.open_views()
        self.absence = BusAbsence(runtime.config.gateway.unready_without_bus, runtime.monotonic() - snapshot_age_s)
        await self.sender.start(snapshot_age_s)
        await self.gossip.start()
        await self.runner.setup()
        runtime.spawn(self.demand.run(), "wake requests")
        runtime.spawn(self.activity.run(), "activity")
        runtime.spawn(self.gossip.run(), "limits")
        if not runtime.worker:
            runtime.spawn(self.snapshot.run(), "snapshot")
        self.sending = [runtime.spawn(self.sender.run(), "usage"), runtime.spawn(self.reporter.run(), "responses")]
        runtime.spawn(self.revocations.run(), "revocations")
        self.revocations.report(self.metrics, runtime.health)
        runtime.health.add_check("outbox", lambda: self.outbox.fault)
        # Once its views are read, the gateway serves without the bus for a while.
        runtime.health.add_check("bus", self._bus_fault)
        runtime.on_reload = self.reload
        self.gossip.on_news = self.dispatcher.dispatch
        add_gauges(self.metrics, self.connections, self.memory, self.scheduler, self.outbox, now=runtime.now)
        return self

    def reload(self, config: Config) -> None:
        """Follow new tiers, machines and models. Raises `Misconfigured` and changes nothing if a key is missing."""
        self.engine_keys.update(config)
        gates = GateView(config, self.budget, self.budget.age)
        self.scheduler.update(config, gates if gates.limited_scopes else None)
        self.authenticator.models, self.resources.config = config.models, config
        self.dispatcher.config = config
        self.check_record = record_check(config)
        self.fleet.recheck()
        self.dispatcher.update(config, gates)

    def _bus_fault(self) -> str | None:
        bus = self.runtime.bus
        self.absence.observe(
            self.runtime.monotonic(),
            connected=bus.connected,
            age_s=min(bus.view_ages().values(), default=0.0),
            place=self.limits.coordinator.place,
        )
        return self.absence.fault

    def open_response(self, request: web.BaseRequest) -> ClientResponse:
        return ClientResponse(request, self.headers, self.batcher, self.runtime.now())

    def connection(self) -> ClientConnection:
        """Return the protocol for a new connection."""
        assert self.runner.server is not None, "the runner has been set up"
        return ClientConnection(self.runner.server, self.connections)

    async def run_clock(self) -> None:
        second = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.connections.tick()
            self.engines.tick(self.connections.now)
            if self.connections.now - second >= 1.0:
                second = self.connections.now
                self.headers.refresh()
                self.reporter.counts.roll(self.runtime.now())
                self._bus_fault()
                for exchange in self.lifecycle.exchanges:
                    exchange.count_running()
                self.dispatcher.check_gates()
                self.access_log.report_suppressed(self.runtime.now())
            self.access_log.flush()

    async def drain(self, stop_listening: Callable[[], None]) -> None:
        settings, has_failed = self.runtime.config.gateway, self.runtime.abandoned or self.runtime.crashed
        self.lifecycle.is_leaving = True
        if not has_failed:
            await asyncio.sleep(settings.drain_delay)
        stop_listening()
        grace_ends_at = self.runtime.monotonic() + settings.drain_grace
        self.connections.close_idle()
        await self.lifecycle.drain(settings.drain_grace, keep_held=not has_failed)
        await self.connections.close(LAST_BYTES_SECONDS, grace_ends_at - self.runtime.monotonic())
        await self.activity.report(leaving=True)
        await self.gossip.report(leaving=True)
        await cancel_and_wait(self.sending)
        await asyncio.gather(self.sender.drain(SEND_SECONDS), self.reporter.drain(SEND_SECONDS))
        self.engines.close()
        self.outbox.close()
        self.revocations.save()
        self.access_log.close()
