"""Follows the state of the fleet: the machines' records and the gateways' use of them."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from shared.bus.ports import Received
from shared.bus.subjects import check_sender
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.fleet_records import check_machine
from shared.fleet_rows import MachineRow, machine_rows, sum_use
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity
from shared.messages.waker import MachineRecord

SILENT_SECONDS = 10.0
"""A gateway that has not reported for this long has ended; the waker uses the same limit."""


class FleetWatcher:
    """The machines' records and the gateways' use of them, kept current. Each change sets `changed`.

    `records` is a view that its user starts; `on_activity` takes what arrives on `ACTIVITIES`.
    """

    def __init__(
        self,
        *,
        check: Callable[[str, MachineRecord], None] = check_machine,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = asyncio.Event()
        self.records = View(FLEET, MachineRecord, self._on_change, check=check)
        self._now = now
        self._monotonic = monotonic
        self._activities: dict[str, tuple[Activity, float]] = {}

    def rows(self) -> list[MachineRow]:
        return machine_rows(self.records.values(), sum_use(self.activities()), self._now())

    def activities(self) -> list[Activity]:
        """Return the newest report of each gateway that has not ended."""
        oldest = self._monotonic() - SILENT_SECONDS
        return [activity for activity, at in self._activities.values() if at > oldest]

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return at the next change, or after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.changed.wait()
        self.changed.clear()

    async def on_activity(self, received: Received) -> None:
        with suppress(Unreadable):  # the waker logs it
            activity = decode(received.data, Activity)
            check_sender(received.subject, activity.gateway)
            now = self._monotonic()
            # A gateway has another name after each start, and one that died never says that it leaves.
            self._activities = {name: kept for name, kept in self._activities.items() if kept[1] > now - SILENT_SECONDS}
            if activity.leaving:
                self._activities.pop(activity.gateway, None)
            else:
                self._activities[activity.gateway] = (activity, now)
            self.changed.set()

    def _on_change(self, machine: str) -> None:
        del machine
        self.changed.set()
