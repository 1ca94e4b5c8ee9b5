"""What a process tells of its connection to the bus: what it rejected, and how current its views of buckets are."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.bus.ports import Bus


class BusMetrics(Collector):
    """Read when the page is asked for."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        rejected = CounterMetricFamily("spot_bus_rejected", "Messages that could not be taken.", labels=["source"])
        for source, number in self._bus.rejections.counts.items():
            rejected.add_metric([source], number)
        ages = GaugeMetricFamily(
            "spot_bus_view_age_seconds", "Since a view was last known to be current.", labels=["bucket"]
        )
        for bucket, age in self._bus.view_ages().items():
            ages.add_metric([bucket], age)
        return iter((rejected, ages))


def view_fault(bus: Bus, max_age: float) -> str | None:
    """A view that may be too old, by its bucket and its age in seconds."""
    for bucket, age in bus.view_ages().items():
        if age > max_age:
            return f"bucket {bucket} was last known to be current {age:.0f} s ago, and max_view_age is {max_age:g} s"
    return None
