"""Repeats tasks side by side. One that fails is retried and does not affect the others."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable

log = structlog.get_logger()

RETRY_SECONDS = 1.0
"""After the first failure. Each further failure in a row doubles it."""
LONGEST_AWAY_SECONDS = 5.0
"""While the bus or the database is unavailable: its return is noticed within this."""
LONGEST_RETRY_SECONDS = 60.0
"""After any other failure, which is logged each time with its traceback."""


def every(seconds: float) -> Callable[[], Awaitable[None]]:
    """Return a pause of this length, for `PeriodicTask`."""
    return lambda: asyncio.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class PeriodicTask:
    """Runs `run`, then `pause`, and so on. `run` returns what needs attention although it works, or None."""

    name: str
    run: Callable[[], Awaitable[str | None]]
    pause: Callable[[], Awaitable[None]]
    initial_delay_s: float = 0.0


class PeriodicTasks:
    """Repeats tasks, and knows which of them fail now and why."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._faults: dict[str, str] = {}
        self._alarms: dict[str, str] = {}
        self._failures = Counter(
            "spot_work_failures", "Times that a piece of repeated work failed.", ("work",), registry=registry
        )
        self._failing = Gauge(
            "spot_work_failing", "1 while a piece of repeated work fails or has a fault.", ("work",), registry=registry
        )

    @property
    def fault(self) -> str | None:
        """The tasks that raise now, and why; None if none does."""
        return "; ".join(self._faults.values()) or None

    @property
    def alarm(self) -> str | None:
        """What the tasks that work have found to need attention; None if nothing does."""
        return "; ".join(self._alarms.values()) or None

    async def repeat(self, task: PeriodicTask) -> None:
        """Repeat the task until this coroutine is cancelled."""
        failures = 0
        await asyncio.sleep(task.initial_delay_s)
        while True:
            try:
                self._set(task.name, alarm=await task.run())
                failures = 0
                await task.pause()
            except Exception as error:  # noqa: BLE001 - the other tasks go on, whatever fails
                failures += 1
                await asyncio.sleep(self.record_failure(task.name, error, failures))

    def record_failure(self, name: str, error: Exception, failures: int) -> float:
        """Count and log a failure, the `failures`th in a row. Returns the seconds until the next try."""
        self._failures.labels(name).inc()
        away = isinstance(error, (BusUnavailable, *DATABASE_ERRORS))
        self._set(name, fault=describe(error))
        longest = LONGEST_AWAY_SECONDS if away else LONGEST_RETRY_SECONDS
        pause: float = min(RETRY_SECONDS * 2 ** min(failures - 1, 30), longest)
        if away:
            log.warning("task_delayed", task=name, reason=describe(error), retry_in_seconds=pause)
        else:
            log.error("task_failed", task=name, reason=describe(error), retry_in_seconds=pause, exc_info=error)
        return pause

    def clear(self, names: Iterable[str]) -> None:
        """Drop the faults of tasks that another replica runs now."""
        for name in names:
            self._set(name)

    def _set(self, name: str, *, fault: str | None = None, alarm: str | None = None) -> None:
        self._failing.labels(name).set(fault is not None or alarm is not None)
        for texts, text in ((self._faults, fault), (self._alarms, alarm)):
            if text is None:
                texts.pop(name, None)
            else:
                texts[name] = f"{name}: {text}"
