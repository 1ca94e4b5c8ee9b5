"""The one place that names the gateway's concrete parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from services.gateway.adapters.activity import ActivityReporter
from services.gateway.adapters.demand import Demand
from services.gateway.adapters.engines import Engines
from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.usage_sender import UsageSender
from services.gateway.core.hold import Hold
from services.gateway.door import Door
from services.gateway.http.app import make_app
from services.gateway.metrics import Metrics
from shared.bus.topology import BUDGET, FLEET, KEYS
from shared.bus.view import View
from shared.errors import Misconfigured
from shared.messages.billing import BudgetGate
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord
from shared.runtime.process import Runtime
from shared.tasks import end

SEND_SECONDS = 3.0
"""For the last usage events after the last request; what is late stays on disk for the next boot."""


@asynccontextmanager
async def opened(runtime: Runtime) -> AsyncIterator[None]:
    """The running gateway; leaving drains it."""
    settings = runtime.config.gateway
    folder = runtime.data_dir / "gateway" / "outbox"
    outbox = Outbox(folder, runtime.instance, max_bytes=settings.outbox_max_bytes)
    door = _door(runtime, outbox)
    for view in (door.fleet, door.keys, door.budget):
        await view.start(runtime.bus)
    await door.sender.start()
    runtime.spawn(door.demand.run(), "wake requests")
    runtime.spawn(door.activity.run(), "activity")
    sending = runtime.spawn(door.sender.run(), "usage")
    runtime.health.add("outbox", lambda: outbox.fault)
    # With its views read it serves without the bus: to be unready would take every gateway away at once.
    runtime.health.drop("bus")
    runner = web.AppRunner(make_app(door), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    port = settings.port if runtime.port is None else runtime.port
    try:
        await web.TCPSite(runner, settings.host, port, backlog=2048).start()
    except OSError as error:
        await runner.cleanup()
        raise _port_taken(settings.host, port, error) from error
    runtime.url = f"http://{settings.host}:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        for site in list(runner.sites):
            await site.stop()
        await door.drain(settings.drain_grace)
        await door.activity.report(leaving=True)
        await end([sending])
        await door.sender.drain(SEND_SECONDS)
        await runner.cleanup()
        await door.engines.close()
        outbox.close()


def _door(runtime: Runtime, outbox: Outbox) -> Door:
    config, bus = runtime.config, runtime.bus
    # The views exist before the books and the books before the door, which hears of the views' changes.
    fleet: View[MachineRecord] = View(FLEET, MachineRecord, lambda machine: door.on_fleet_change(machine))  # noqa: PLW0108 - `door` is made below
    hold = Hold(config, fleet)
    metrics = Metrics(runtime.registry)

    door = Door(
        config=config,
        hold=hold,
        fleet=fleet,
        keys=View(KEYS, KeyRecord),
        budget=View(BUDGET, BudgetGate),
        demand=Demand(bus, hold, runtime.instance, config.gateway.wake_repeat, runtime.now),
        activity=ActivityReporter(bus, hold, runtime.instance, fleet.revision, runtime.now),
        engines=Engines(config.gateway),
        outbox=outbox,
        sender=UsageSender(bus, outbox, runtime.monotonic),
        metrics=metrics,
        now=runtime.now,
    )
    metrics.watch("in_flight", "Requests at engines.", lambda: hold.total_in_flight)
    metrics.watch("waiting", "Requests held for a wake.", lambda: hold.total_waiting)
    metrics.watch("outbox_pending", "Usage events that the ledger has not confirmed.", lambda: outbox.pending)
    metrics.watch("outbox_bytes", "Size of the outbox on disk.", lambda: outbox.size)
    return door


def _port_taken(host: str, port: int, error: OSError) -> Misconfigured:
    return Misconfigured(f"gateway.port: cannot listen on {host}:{port}: {error.strerror}: name another port, or 0")
