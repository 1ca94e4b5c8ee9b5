"""Compares this host's clock with that of the bus, which all services share: a metric, a warning and an alarm.

A service whose clock is wrong keeps serving. No message depends on two clocks agreeing, so stopping it would help
nobody. Only the times in its events are wrong.
"""

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Gauge

from shared.bus.ports import Bus
from shared.errors import BusError

WARN_SECONDS = 2.0
"""More than time synchronisation leaves, and more than a round trip to the bus can hide."""
ALARM_SECONDS = 60.0
"""Above this, wrong times also reach people: in days, minutes and the signatures of cloud API calls."""
PERIOD_SECONDS = 30.0

log = structlog.get_logger()


class ClockSkewMonitor:
    """Measures the skew repeatedly in `run`. `alarm` is what an operator has to fix, or None."""

    def __init__(self, bus: Bus, registry: CollectorRegistry) -> None:
        self._bus = bus
        self._skew = Gauge(
            "spot_clock_skew_seconds", "How far this host's clock is ahead of the bus's.", registry=registry
        )
        self._warned = False
        self.alarm: str | None = None

    async def measure(self) -> None:
        """Measure once. If the bus does not answer, the last measurement stays."""
        try:
            skew = await self._bus.measure_skew()
        except BusError:
            return
        self._skew.set(skew)
        text = f"this host's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the clock of the bus"
        self.alarm = f"{text}: synchronise the clocks, e.g. with chrony" if abs(skew) > ALARM_SECONDS else None
        if self.alarm:
            log.error("clock_skewed", reason=self.alarm, skew_s=round(skew, 3))
        elif abs(skew) > WARN_SECONDS and not self._warned:
            log.warning("clock_skewed", reason=text, skew_s=round(skew, 3))
        self._warned = abs(skew) > WARN_SECONDS

    async def run(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(PERIOD_SECONDS)
