"""What billing and the meter have published, kept current by a watch, with its age."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.bus.view import View
from shared.messages.bench import BenchRun
from shared.messages.billing import Published
from shared.messages.meter_audit import Audit
from shared.messages.public import Headline, PublishedDay

Entry = Published | BenchRun | Audit | PublishedDay | Headline
STALE_S = 900.0
"""Billing repeats the headline every 5 minutes. One that is older is no live figure any more."""


class LiveHeadline(msgspec.Struct, frozen=True, kw_only=True):
    """The trailing days with what is to be said of their age."""

    headline: Headline
    as_of: str
    """When billing last published them, RFC 3339."""
    is_current: bool


class ReportView:
    """The bucket `reports`. It holds messages of several kinds, and each is read as what its key says."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._view: View[Any] = View(topology.REPORTS, cast("type[Any]", Entry), lambda _key: on_change())

    async def start(self, bus: Bus) -> None:
        """Return once the bucket has been read."""
        await self._view.start(bus)

    async def stop(self) -> None:
        await self._view.stop()

    def headline(self) -> LiveHeadline | None:
        entry = self._view.get(subjects.HEADLINE_KEY)
        if not isinstance(entry, Headline):
            return None
        is_current = self._view.age(subjects.HEADLINE_KEY) < STALE_S
        return LiveHeadline(headline=entry, as_of=rfc3339(entry.at), is_current=is_current)

    def day(self, day: str) -> PublishedDay | None:
        entry = self._view.get(subjects.public_day_key(day))
        return entry if isinstance(entry, PublishedDay) and entry.figures.day == day else None

    def audit(self, day: str) -> Audit | None:
        entry = self._view.get(subjects.audit_key(day))
        return entry if isinstance(entry, Audit) and entry.day == day else None

    def bench_runs(self) -> list[BenchRun]:
        return [entry for entry in self._view.values() if isinstance(entry, BenchRun)]


def rfc3339(at: float) -> str:
    """`2026-11-23T16:00:00Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
