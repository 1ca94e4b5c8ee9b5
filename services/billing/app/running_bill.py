"""Polls a provider's running bill. A failure leaves the last known figures as they are."""

from collections.abc import Callable, Mapping

import structlog

from services.billing.core.allocation.accrual import BillReading, has_fallen
from services.billing.metrics import Metrics
from services.billing.ports import AccrualStore, RunningBill
from shared.clouds.hyperstack import HyperstackError
from shared.units import to_millis

log = structlog.get_logger()


class RunningBillPoller:
    """Polls one provider.

    `machine_of` has our machines by the provider's ids; `priced` are those whose price counts while they have no bill.
    """

    def __init__(
        self,
        bill: RunningBill,
        accruals: AccrualStore,
        machine_of: Mapping[str, str],
        priced: frozenset[str],
        metrics: Metrics,
        *,
        now: Callable[[], float],
    ) -> None:
        self._bill = bill
        self._accruals = accruals
        self._machine_of = machine_of
        self._priced = priced
        self._metrics = metrics
        self._now = now
        self._fallen: set[str] = set()
        """Resources whose last reading was lower than the one before, and was not counted."""
        self._error: str | None = None
        self._read_at: int | None = None
        self._missing: frozenset[str] = frozenset()
        """Resources that had no bill at the last reading."""

    async def poll(self) -> None:
        """Read the bill once. Raises what `DATABASE_ERRORS` lists if the reading cannot be stored."""
        at = to_millis(self._now())
        try:
            cost_by_resource = await self._bill.cumulative()
        except HyperstackError as fault:
            self._failed(str(fault))
            return
        readings = {
            name: BillReading(amount, at) for name, amount in cost_by_resource.items() if name in self._machine_of
        }
        last = await self._accruals.last_readings()
        if self._read_at is not None and (new := self._missing & readings.keys() - last.keys()):
            # The bill did not have it at the reading before, so the whole amount is for the time since then.
            start = dict.fromkeys(new, BillReading(0, self._read_at))
            await self._accruals.add_readings(start, self._machine_of, self._bill.provider)
            last |= start
        counted = self._certain(readings, last)
        await self._accruals.add_readings(counted, self._machine_of, self._bill.provider)
        self._error, self._read_at = None, at
        self._metrics.readings.labels(self._bill.provider, "read").inc()
        missing = frozenset(self._machine_of.keys() - cost_by_resource.keys())
        if missing - self._missing:
            log.warning("machine_bills_missing", provider=self._bill.provider, resources=sorted(missing))
        self._missing = missing

    async def unobserved_machines(self, seconds: float) -> frozenset[str]:
        """Return the machines whose cost is unknown: no leader has read their bill for so long.

        A machine that is missing from a bill that was read costs its price, if it has one.
        """
        now = to_millis(self._now())
        read = self._read_at is not None and _is_near(self._read_at, now, seconds)
        last = await self._accruals.last_readings()
        return frozenset(
            machine
            for resource, machine in self._machine_of.items()
            if not (resource in last and _is_near(last[resource].at, now, seconds))
            and not (read and resource in self._missing and machine in self._priced)
        )

    def _certain(self, readings: Mapping[str, BillReading], last: Mapping[str, BillReading]) -> dict[str, BillReading]:
        """Leave out bills that have just fallen: at the next reading only a new bill is still lower."""
        fallen = {name for name, now in readings.items() if name in last and has_fallen(last[name], now)}
        doubtful, self._fallen = fallen - self._fallen, fallen
        if doubtful:
            log.warning("bill_decreased", action="read again before it counts as new", resources=sorted(doubtful))
        return {name: now for name, now in readings.items() if name not in doubtful}

    def _failed(self, fault: str) -> None:
        self._metrics.readings.labels(self._bill.provider, "failed").inc()
        if fault != self._error:
            self._error = fault
            log.warning("running_bill_unreadable", provider=self._bill.provider, fault=fault)


def _is_near(at: int, now: int, seconds: float) -> bool:
    """Return whether the times are close. `at` may be in the future: a clock was set back."""
    return abs(now - at) <= seconds * 1000
