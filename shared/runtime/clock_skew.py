"""Measures this host's clock against the bus's, which all services share: a metric, a warning and an alarm.

A service whose clock is wrong goes on serving: nothing that it tells others depends on their clocks agreeing with its
own, and taking it away would help nobody. What does depend on a clock is the time that its events carry.
"""

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Gauge

from shared.bus.ports import Bus
from shared.errors import BusError

WARN_SECONDS = 2.0
"""Beyond what time synchronisation leaves, and what a round trip to the bus can hide."""
ALARM_SECONDS = 60.0
"""From here on times are wrong to people, too: days, minutes and signatures of calls to clouds."""
PERIOD_SECONDS = 30.0

log = structlog.get_logger()


class ClockSkewMonitor:
    """One task, `run`. `alarm` says what an operator has to see to; None: nothing."""

    def __init__(self, bus: Bus, registry: CollectorRegistry) -> None:
        self._bus = bus
        self._skew = Gauge(
            "spot_clock_skew_seconds", "How far this host's clock is ahead of the bus's.", registry=registry
        )
        self._warned = False
        self.alarm: str | None = None

    async def measure(self) -> None:
        """A bus that does not answer leaves the last measurement standing."""
        try:
            skew = await self._bus.measure_skew()
        except BusError:
            return
        self._skew.set(skew)
        text = f"this host's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the bus's"
        self.alarm = f"{text}: synchronise the clocks, such as with chrony" if abs(skew) > ALARM_SECONDS else None
        if self.alarm:
            log.error("clock_skewed", reason=self.alarm, skew_s=round(skew, 3))
        elif abs(skew) > WARN_SECONDS and not self._warned:
            log.warning("clock_skewed", reason=text, skew_s=round(skew, 3))
        self._warned = abs(skew) > WARN_SECONDS

    async def run(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(PERIOD_SECONDS)
