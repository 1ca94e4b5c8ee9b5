"""Pieces of work that are repeated side by side: one that fails, whatever the reason, fails alone."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable

log = structlog.get_logger()

RETRY_SECONDS = 1.0
"""After the first failure; each further one in a row doubles it."""
LONGEST_AWAY_SECONDS = 5.0
"""While the bus or the database is away: its return is noticed within this."""
LONGEST_RETRY_SECONDS = 60.0
"""After any other failure: it is logged each time with its traceback."""


def every(seconds: float) -> Callable[[], Awaitable[None]]:
    """A pause of so long."""
    return lambda: asyncio.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class PeriodicTask:
    """`do` once, then `pause`, and again. What `do` returns is a fault that has to be seen to, None: all went well."""

    name: str
    run: Callable[[], Awaitable[str | None]]
    pause: Callable[[], Awaitable[None]]
    initial_delay_s: float = 0.0
    """Seconds before the first time."""


class PeriodicTasks:
    """Repeats works, and knows which of them fail now and why."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._faults: dict[str, str] = {}
        self._failures = Counter(
            "spot_work_failures", "Times that a piece of repeated work failed.", ("work",), registry=registry
        )
        self._failing = Gauge(
            "spot_work_failing", "1 while a piece of repeated work fails or has a fault.", ("work",), registry=registry
        )

    @property
    def fault(self) -> str | None:
        """All works that fail now, and why; None: no one does."""
        return "; ".join(self._faults.values()) or None

    async def repeat(self, work: PeriodicTask) -> None:
        """For ever, until it is cancelled."""
        failures = 0
        await asyncio.sleep(work.initial_delay_s)
        while True:
            try:
                self._note(work.name, await work.run())
                failures = 0
                await work.pause()
            except Exception as error:  # noqa: BLE001 - whatever it is, the other works go on
                failures += 1
                await asyncio.sleep(self.record_failure(work.name, error, failures))

    def record_failure(self, name: str, error: Exception, failures: int) -> float:
        """Count, log and show the failure, one of so many in a row; returns the seconds until the next try."""
        self._failures.labels(name).inc()
        away = isinstance(error, (BusUnavailable, *DATABASE_ERRORS))
        self._note(name, describe(error))
        longest = LONGEST_AWAY_SECONDS if away else LONGEST_RETRY_SECONDS
        pause: float = min(RETRY_SECONDS * 2 ** min(failures - 1, 30), longest)
        if away:
            log.warning("work_refused", work=name, reason=describe(error), retry_in_seconds=pause)
        else:
            log.error("work_failed", work=name, reason=describe(error), retry_in_seconds=pause, exc_info=error)
        return pause

    def clear(self, names: Iterable[str]) -> None:
        """Another replica does them now."""
        for name in names:
            self._note(name, None)

    def _note(self, name: str, fault: str | None) -> None:
        self._failing.labels(name).set(fault is not None)
        if fault is None:
            self._faults.pop(name, None)
        else:
            self._faults[name] = f"{name}: {fault}"
