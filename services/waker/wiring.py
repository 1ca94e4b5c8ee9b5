"""Assembles the waker: the only place that names its concrete classes."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from services.waker.adapters.keeper_files import machine_folder
from services.waker.adapters.probe import HttpProber
from services.waker.adapters.process import LocalMachine, LocalMachines
from services.waker.adapters.sleep_mode import SleepingMachine
from services.waker.adapters.static import StaticMachines
from services.waker.app.term_resources import TermResources
from services.waker.app.waker import Waker
from services.waker.core.fleet_spec import fleet_spec_of
from services.waker.metrics import Metrics
from services.waker.ports import Provider
from shared.budget_gates import GateView
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.bus.topology import BUDGET
from shared.bus.view import View
from shared.clouds.throttle import Throttle
from shared.config.fleet import Machine
from shared.config.providers import ProviderName
from shared.config.reload import RELOADABLE
from shared.config.sections import Config
from shared.engine_keys import EngineKeys
from shared.ids import uuid7
from shared.messages.budget import BudgetGate
from shared.runtime.child import LIFELINE_VARIABLE
from shared.runtime.process import Runtime
from shared.tasks import cancel_and_wait


@asynccontextmanager
async def service(runtime: Runtime) -> AsyncIterator[None]:
    """Run the waker, leading or standing by. Leaving touches no machine: the next leader takes them over."""
    lease = Lease(runtime.bus, subjects.WAKER_LEASE, runtime.instance, runtime.monotonic)
    budget: View[BudgetGate] = View(BUDGET, BudgetGate)
    metrics = Metrics(runtime.registry)

    def resources_of(config: Config) -> TermResources:
        gates = GateView(config, budget, budget.age)

        def closed_tiers() -> frozenset[str]:
            now = runtime.now()
            return frozenset(t.name for t in config.tier if gates.tier_closed_reason(t.name, now) is not None)

        return TermResources(
            bus=runtime.bus,
            lease=lease,
            spec=fleet_spec_of(config, uuid7, loaded_at=runtime.now()),
            providers=build_providers(config, runtime.data_dir),
            prober=HttpProber(EngineKeys(config).find),
            metrics=metrics,
            closed_tiers=closed_tiers,
        )

    waker = Waker(resources_of(runtime.config), now=runtime.now, monotonic=runtime.monotonic)
    await budget.start(runtime.bus)
    runtime.health.add_check("fleet", lambda: waker.fault)
    await waker.start()
    await lease.renew()
    tasks = [runtime.keep_lease(lease), runtime.spawn(waker.run(), "fleet")]
    used = runtime.config

    def reload(config: Config) -> None:
        nonlocal used
        if any(getattr(config, table) != getattr(used, table) for table in RELOADABLE):
            waker.reload(resources_of(config))
            used = config

    runtime.on_reload = reload
    try:
        yield
    finally:
        runtime.on_reload = None
        await cancel_and_wait(tasks)
        await lease.release()
        await waker.stop()
        await budget.stop()


def build_providers(config: Config, data_dir: Path) -> dict[ProviderName, Provider]:
    """The providers that the configured tiers need, by name."""
    return {name: build_provider(name, config, data_dir) for name in sorted({tier.provider for tier in config.tier})}


def build_provider(name: ProviderName, config: Config, data_dir: Path) -> Provider:
    """Build one provider. A cloud's libraries are loaded only if the cloud is used."""
    machines = [m for m in config.machine if config.tiers[m.tier].provider == name]
    instances = {m.id: m.instance or "" for m in machines}
    match name:
        case "ec2":
            from services.waker.adapters.ec2 import Ec2

            account = config.provider.ec2
            assert account is not None, "checked when the file was read"
            return Ec2(
                account.region,
                instances,
                fleet=config.waker.fleet,
                endpoint_url=account.endpoint_url,
                calls_per_minute=account.calls_per_minute,
            )
        case "hyperstack":
            return _hyperstack(config, instances)
        case "process":
            lifeline = os.environ.get(LIFELINE_VARIABLE)
            descriptor = int(lifeline) if lifeline else None
            folders = {m.id: machine_folder(data_dir.resolve(), m.id) for m in machines}
            return LocalMachines({m.id: _local(m, folders[m.id], descriptor) for m in machines})
        case "static":
            return StaticMachines()


def _local(machine: Machine, folder: Path, lifeline: int | None) -> LocalMachine:
    if machine.sleep_level is None:
        return LocalMachine(folder, machine.command, lifeline, passed=machine.environment)
    return SleepingMachine(folder, machine.command, lifeline, level=machine.sleep_level, passed=machine.environment)


def _hyperstack(config: Config, instances: Mapping[str, str]) -> Provider:
    from services.waker.adapters.hyperstack import Hyperstack
    from services.waker.adapters.hyperstack_api import HyperstackApi
    from shared.clouds.hyperstack import HyperstackAccount, api_key

    account = config.provider.hyperstack
    assert account is not None, "checked when the file was read"
    calls = HyperstackAccount(account.base_url, api_key(), Throttle(account.calls_per_minute))
    return Hyperstack(HyperstackApi(calls), instances, config.waker.fleet)
