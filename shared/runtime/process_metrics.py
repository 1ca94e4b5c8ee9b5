"""Metrics that every process has from its first moment: its own resources, its version, its connection to the bus."""

import platform
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from shared.version import VERSION


def register_process_metrics(registry: CollectorRegistry, is_connected: Callable[[], bool]) -> None:
    """Add `process_*`, `spot_build_info` and `spot_bus_connected`, which calls `is_connected` at each scrape."""
    ProcessCollector(registry=registry)
    build = Gauge("spot_build_info", "1, labelled with what runs.", ("version", "python"), registry=registry)
    build.labels(VERSION, platform.python_version()).set(1)
    connected = Gauge("spot_bus_connected", "1 while the process is connected to the bus.", registry=registry)
    connected.set_function(is_connected)
