"""Puts the waker together: the one place that names its concrete classes."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.waker.adapters.files import machine_folder
from services.waker.adapters.probe import HttpProber
from services.waker.adapters.process import ProcessMachine
from services.waker.adapters.static import StaticMachine
from services.waker.core.plan import plan_of
from services.waker.metrics import Metrics
from services.waker.ports import Provider
from services.waker.waker import Waker
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.config import Config, Machine
from shared.ids import uuid7
from shared.runtime.child import LIFELINE_VARIABLE
from shared.runtime.process import Runtime
from shared.tasks import end


@asynccontextmanager
async def opened(runtime: Runtime) -> AsyncIterator[None]:
    """The running waker, leading or standing by. Leaving touches no machine: the next leader takes them over."""
    config = runtime.config
    lease = Lease(runtime.bus, subjects.WAKER_LEASE, runtime.instance, runtime.monotonic)
    prober = HttpProber()
    waker = Waker(
        bus=runtime.bus,
        lease=lease,
        plan=plan_of(config, uuid7),
        providers={m.id: _provider(config, m, runtime.data_dir) for m in config.machine},
        prober=prober,
        metrics=Metrics(runtime.registry),
        now=runtime.now,
        monotonic=runtime.monotonic,
    )
    runtime.health.add("fleet", lambda: waker.fault)
    await waker.start()
    await lease.renew()
    tasks = [runtime.spawn(lease.keep(), "lease"), runtime.spawn(waker.run(), "fleet")]
    try:
        yield
    finally:
        await end(tasks)
        await lease.release()
        await waker.stop()
        await prober.close()


def _provider(config: Config, machine: Machine, data_dir: Path) -> Provider:
    if config.tiers[machine.tier].provider == "static":
        return StaticMachine()
    lifeline = os.environ.get(LIFELINE_VARIABLE)
    folder = machine_folder(data_dir.resolve(), machine.id)
    return ProcessMachine(folder, machine.command, int(lifeline) if lifeline else None)
