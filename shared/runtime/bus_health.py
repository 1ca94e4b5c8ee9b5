"""Reports a process's connection to the bus: rejected messages, and how current its views of buckets are."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.bus.ports import Bus


class BusMetrics(Collector):
    """Metrics of the bus, read when they are scraped."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        rejected = CounterMetricFamily("spot_bus_rejected", "Messages that could not be processed.", labels=["source"])
        for source, number in self._bus.rejections.counts.items():
            rejected.add_metric([source], number)
        ages = GaugeMetricFamily(
            "spot_bus_view_age_seconds", "Since a view was last known to be current.", labels=["bucket"]
        )
        for bucket, age in self._bus.view_ages().items():
            ages.add_metric([bucket], age)
        return iter((rejected, ages))


def view_fault(bus: Bus, max_age: float) -> str | None:
    """Return which view may be too old, by its bucket and its age; None if all are current."""
    for bucket, age in bus.view_ages().items():
        if age > max_age:
            return f"the view of bucket {bucket} was last current {age:.0f} s ago; max_view_age is {max_age:g} s"
    return None
