"""`docs/reference/metrics.md` has every metric and every check of readiness, as the running services have them."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shared.runtime.process import Runtime
from shared.runtime.process_metrics import register_process_metrics
from tests.docs.pages import page, quoted
from tests.kit.service_metrics import CLOCK_SKEW, NamedChecks, start_each_once

PAGE = page("docs/reference/metrics.md")
RESOURCES = "process_"
"""Begins the names of prometheus-client's own metrics, which the page describes in one row."""


def exposed(registry: CollectorRegistry) -> set[str]:
    """The names that `/metrics` shows."""
    return {f"{m.name}_total" if m.type == "counter" else m.name for m in registry.collect()}


@pytest.fixture
async def runtimes(tmp_path: Path) -> dict[str, Runtime]:
    return await start_each_once(tmp_path)


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
