"""`docs/reference/metrics.md` has every metric and every check of readiness, as the running services have them."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.billing import wiring as billing
from services.gateway import wiring as gateway
from services.meter import wiring as meter
from services.waker import wiring as waker
from shared.bus.memory import MemoryBus
from shared.config.load import parse
from shared.runtime.health import Check, Health
from shared.runtime.process import Runtime, Service
from shared.runtime.process_metrics import register_process_metrics
from tests.docs.pages import page, quoted

PAGE = page("docs/reference/metrics.md")
SERVICES: dict[str, Service] = {
    "gateway": gateway.service,
    "waker": waker.service,
    "meter": meter.service,
    "billing": billing.service,
}
CLOCK_SKEW = "spot_clock_skew_seconds"
"""The process registers it, not the service."""
RESOURCES = "process_"
"""Begins the names of prometheus-client's own metrics, which the page describes in one row."""
CONFIG = '[gateway]\nport = 0\n[billing]\ndaily_budget = "1.00"\n'


class NamedChecks(Health):
    """Record which checks were added."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def add_check(self, name: str, check: Check) -> None:
        self.names.append(name)
        super().add_check(name, check)


def exposed(registry: CollectorRegistry) -> set[str]:
    """The names that `/metrics` shows."""
    return {f"{m.name}_total" if m.type == "counter" else m.name for m in registry.collect()}


@pytest.fixture
async def runtimes(tmp_path: Path) -> dict[str, Runtime]:
    """The runtime of each service, started once and drained."""
    runtimes: dict[str, Runtime] = {}
    for name, opened in SERVICES.items():
        async with AsyncExitStack() as stack:
            runtime = Runtime(
                service=name,
                config=parse(CONFIG, "test"),
                data_dir=tmp_path,
                bus=MemoryBus(),
                port=None,
                health=NamedChecks(),
            )
            stack.push_async_callback(runtime.cancel_tasks)
            await stack.enter_async_context(opened(runtime))
            runtimes[name] = runtime
            runtime.stop()
    return runtimes


async def test_every_metric_is_described(runtimes: dict[str, Runtime]) -> None:
    process = CollectorRegistry()
    register_process_metrics(process, lambda: True)
    metrics = {name for runtime in runtimes.values() for name in exposed(runtime.registry)} | {CLOCK_SKEW}
    metrics |= {f"{RESOURCES}*" if name.startswith(RESOURCES) else name for name in exposed(process)}
    described = [quoted(cells[0])[0] for cells in PAGE.rows("## Metrics")]
    assert len(metrics) > 20
    assert sorted(described) == sorted(metrics)


async def test_every_readiness_check_is_described(runtimes: dict[str, Runtime]) -> None:
    rows = {cells[0]: quoted(cells[1]) for cells in PAGE.rows("## Readiness")}
    checks = {
        name: runtime.health.names for name, runtime in runtimes.items() if isinstance(runtime.health, NamedChecks)
    }
    assert {name: faults for name, faults in rows.items() if name != "all"} == checks
    assert rows["all"] == ["bus", "starting", "draining", "views"]
