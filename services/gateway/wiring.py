"""The one place that names the gateway's concrete parts."""

import asyncio
import gc
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.access_log import AccessLog
from services.gateway.adapters.activity import ActivityReporter
from services.gateway.adapters.demand import Demand
from services.gateway.adapters.engine_client import EngineClient
from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.outbox_folders import adopt_left_behind, outbox_folder
from services.gateway.adapters.quota_gossip import QuotaGossip
from services.gateway.adapters.usage_sender import UsageSender
from services.gateway.core.rate_limits import RateLimiter
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.wake_limits import WakeLimits
from services.gateway.door import Door
from services.gateway.http.front import TICK_SECONDS, Front
from services.gateway.metrics import Metrics
from services.gateway.write_batcher import WriteBatcher
from shared.budget import GateView
from shared.bus.topology import BUDGET, FLEET, KEYS, MONTHS, WAKES
from shared.bus.view import View
from shared.engine_keys import EngineKeys
from shared.errors import Misconfigured
from shared.fleet_records import record_check
from shared.messages.budget import BudgetGate
from shared.messages.keys import KeyRecord
from shared.messages.meter import KeyMonth
from shared.messages.waker import KeyWakes, MachineRecord
from shared.runtime.process import Runtime
from shared.tasks import end

SEND_SECONDS = 3.0
"""For the last usage events after the last request; what is late stays on disk for the next boot."""
LAST_BYTES_SECONDS = 1.0
"""For what was written to clients to go out."""
BACKLOG = 4096
"""Connections that the kernel holds for us: a burst of a waking fleet's clients comes at once."""
COLLECT_EVERY = 50_000
"""Allocations between two looks of the garbage collector: requests leave no cycles behind."""


@asynccontextmanager
async def opened(runtime: Runtime) -> AsyncIterator[None]:
    """The running gateway; leaving drains it."""
    settings = runtime.config.gateway
    _allow_connections(settings.max_connections)
    folder = outbox_folder(runtime.data_dir, runtime.worker or 0)
    if not runtime.worker:
        adopt_left_behind(runtime.data_dir, runtime.workers)
    outbox = Outbox(folder, runtime.instance, max_bytes=settings.outbox_max_bytes)
    months: View[KeyMonth] = View(MONTHS, KeyMonth)
    budget: View[BudgetGate] = View(BUDGET, BudgetGate, lambda _scope: door.look_at_gates())
    wakes: View[KeyWakes] = View(WAKES, KeyWakes)
    door = _door(runtime, outbox, months, wakes, GateView(runtime.config, budget, budget.age))
    for view in (door.fleet, door.keys, budget, months, wakes):
        await view.start(runtime.bus)
    await door.sender.start()
    await door.gossip.start()
    runtime.spawn(door.demand.run(), "wake requests")
    runtime.spawn(door.activity.run(), "activity")
    runtime.spawn(door.gossip.run(), "limits")
    sending = runtime.spawn(door.sender.run(), "usage")
    runtime.health.add("outbox", lambda: outbox.fault)
    # With its views read it serves without the bus: to be unready would take every gateway away at once.
    runtime.health.drop("bus")
    front = Front(door, runtime.monotonic, lambda: not runtime.health.faults())
    door.metrics.watch("connections", "Connections of clients.", lambda: len(front.connections))
    door.metrics.watch(
        "buffered_bytes", "Request bodies, and responses until they are read, in memory.", lambda: door.memory.used
    )
    door.metrics.watch(
        "unread_answers",
        "Whole answers that their clients have not read yet.",
        lambda: sum(client.unread for client in front.connections),
    )
    server = await _listening(runtime, front)
    runtime.spawn(_clock(front), "clock")
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 100)
    try:
        yield
    finally:
        server.close()
        front.close_idle()
        await door.drain(settings.drain_grace)
        await front.close(LAST_BYTES_SECONDS)
        await door.activity.report(leaving=True)
        await door.gossip.report(leaving=True)
        await end([sending])
        await door.sender.drain(SEND_SECONDS)
        door.engines.close()
        outbox.close()
        door.access_log.report_suppressed()
        door.access_log.flush()


def _door(runtime: Runtime, outbox: Outbox, months: View[KeyMonth], wakes: View[KeyWakes], gates: GateView) -> Door:
    config, bus = runtime.config, runtime.bus
    # The views exist before the books and the books before the door, which hears of the views' changes.
    fleet: View[MachineRecord] = View(
        FLEET,
        MachineRecord,
        lambda machine: door.on_fleet_change(machine),  # noqa: PLW0108 - `door` is made below
        check=record_check(config),
    )
    scheduler = RequestScheduler(config, fleet, gates if gates.limited else None)
    limiter = RateLimiter(runtime.instance, runtime.now(), months)
    metrics = Metrics(runtime.registry, limiter.hits)

    door = Door(
        config=config,
        scheduler=scheduler,
        fleet=fleet,
        keys=View(KEYS, KeyRecord),
        gates=gates,
        demand=Demand(bus, scheduler, runtime.instance, config.gateway.wake_repeat, runtime.now),
        activity=ActivityReporter(
            bus,
            scheduler,
            runtime.instance,
            revision=fleet.revision,
            written=lambda: outbox.next_seq - 1,
            now=runtime.now,
        ),
        engines=EngineClient(config.gateway, WriteBatcher(outbox.write_pending)),
        engine_keys=EngineKeys(config),
        outbox=outbox,
        sender=UsageSender(bus, outbox, runtime.monotonic, limiter.on_confirmed),
        limiter=limiter,
        wake_limits=WakeLimits(config.gateway.wakes_per_hour, config.gateway.wake_cost_per_day, wakes),
        gossip=QuotaGossip(bus, limiter, runtime.instance, runtime.now),
        metrics=metrics,
        access_log=AccessLog(runtime.service, enabled=config.gateway.access_log),
        now=runtime.now,
    )
    metrics.unlogged = lambda: door.access_log.unlogged
    metrics.watch("in_flight", "Requests at engines.", lambda: scheduler.total_in_flight)
    metrics.watch("waiting", "Requests held for a wake.", lambda: scheduler.total_waiting)
    metrics.watch("machines_left_alone", "Machines that failed again and again.", lambda: len(scheduler.breaker.open))
    metrics.watch("outbox_pending", "Usage events that the ledger has not confirmed.", lambda: outbox.pending)
    metrics.watch("outbox_bytes", "Size of the outbox on disk.", lambda: outbox.size)
    metrics.watch(
        "outbox_age_seconds",
        "Age of the oldest usage event that the ledger has not confirmed.",
        lambda: 0.0 if (oldest := outbox.oldest_at) is None else max(0.0, runtime.now() - oldest),
    )
    return door


async def _listening(runtime: Runtime, front: Front) -> asyncio.Server:
    settings = runtime.config.gateway
    port = settings.port if runtime.port is None else runtime.port
    try:
        server = await asyncio.get_running_loop().create_server(
            front.connection, settings.host, port, backlog=BACKLOG, reuse_port=runtime.worker is not None
        )
    except OSError as error:
        reason = f"cannot listen on {settings.host}:{port}: {error.strerror}: name another port, or 0"
        raise Misconfigured(f"gateway.port: {reason}") from error
    listening: socket.socket = server.sockets[0]
    runtime.url = f"http://{settings.host}:{listening.getsockname()[1]}"
    return server


async def _clock(front: Front) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        front.tick()


def _allow_connections(most: int) -> None:
    """One descriptor for each client and one for its engine, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * most + 512
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
