"""Starts each service in this process, to see which metrics and checks of readiness it has."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from services.billing import wiring as billing
from services.gateway import wiring as gateway
from services.meter import wiring as meter
from services.site import wiring as site
from services.waker import wiring as waker
from shared.bus.memory import MemoryBus
from shared.config.load import parse
from shared.runtime.health import Check, Health
from shared.runtime.process import Runtime, Service
from shared.runtime.process_metrics import register_process_metrics

SERVICES: dict[str, Service] = {
    "gateway": gateway.service,
    "waker": waker.service,
    "meter": meter.service,
    "billing": billing.service,
    "site": site.service,
}
CLOCK_SKEW = "spot_clock_skew_seconds"
"""The process registers it, not the service."""
CONFIG = '[gateway]\nport = 0\n[site]\nport = 0\n[billing]\ndaily_budget = "1.00"\n'


class NamedChecks(Health):
    """Record which checks were added, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def add_check(self, name: str, check: Check) -> None:
        if name not in self.names:
            self.names.append(name)
        super().add_check(name, check)


async def start_each_once(data_dir: Path) -> dict[str, Runtime]:
    """Return the runtime of each service, started once and drained. Its health is a `NamedChecks`."""
    runtimes: dict[str, Runtime] = {}
    for name, opened in SERVICES.items():
        async with AsyncExitStack() as stack:
            runtime = Runtime(
                service=name,
                config=parse(CONFIG, "test"),
                data_dir=data_dir,
                bus=MemoryBus(),
                port=None,
                health=NamedChecks(),
            )
            stack.push_async_callback(runtime.cancel_tasks)
            await stack.enter_async_context(opened(runtime))
            runtimes[name] = runtime
            runtime.stop()
    return runtimes


async def sample_labels(data_dir: Path) -> dict[str, frozenset[str]]:
    """Return the labels of each sample that any service can expose, by the sample's name."""
    process = CollectorRegistry()
    register_process_metrics(process, lambda: True)
    registries = [process, *(runtime.registry for runtime in (await start_each_once(data_dir)).values())]
    labels = {name: names for registry in registries for name, names in _samples(registry)}
    return {**labels, CLOCK_SKEW: frozenset()}


def _samples(registry: CollectorRegistry) -> Iterator[tuple[str, frozenset[str]]]:
    for collector in registry._collector_to_names:
        families: list[Any] = [collector] if isinstance(collector, MetricWrapperBase) else list(collector.collect())
        for family in families:
            is_wrapper = isinstance(family, MetricWrapperBase)
            name, kind = (family._name, family._type) if is_wrapper else (family.name, family.type)
            labels = frozenset(family._labelnames)
            match kind:
                case "counter":
                    yield f"{name}_total", labels
                case "histogram":
                    yield f"{name}_bucket", labels | {"le"}
                    yield from ((f"{name}_{part}", labels) for part in ("sum", "count"))
                case _:
                    yield name, labels
