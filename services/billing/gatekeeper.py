"""Writes the budget gate: today's spend against the daily limit, every few seconds, also when it is unknown."""

from collections.abc import Callable
from decimal import Decimal

import structlog

from services.billing.core.gate import budget_gate
from services.billing.metrics import Metrics
from services.billing.reports import Reports
from shared.bus import subjects
from shared.bus.ports import Bus
from shared.bus.topology import BUDGET
from shared.database import AWAY, told
from shared.messages.codec import encode

log = structlog.get_logger()


class Gatekeeper:
    def __init__(
        self, bus: Bus, reports: Reports, metrics: Metrics, *, limit: Decimal, now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._reports = reports
        self._metrics = metrics
        self._limit = Decimal(limit)  # the plain type, which messages carry
        self._now = now
        self._said = ""

    async def look(self) -> None:
        """Put the gate as it is now; `BusUnavailable` when it cannot be told."""
        try:
            spend = await self._reports.spend_today()
        except AWAY as error:
            log.warning("the books cannot be read: the gate closes", reason=told(error))
            spend = None
        gate = budget_gate(spend, self._limit, self._now())
        await self._bus.put(BUDGET, subjects.BUDGET_KEY, encode(gate))
        self._metrics.gate_open.set(gate.open)
        if gate.reason != self._said:
            self._said = gate.reason
            log.warning("the budget gate turned", open=gate.open, reason=gate.reason, spend=str(gate.spend))
