"""Keeps the state of the fleet watcher: the machines' records and the gateways' use of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from shared.bus.ports import Bus, Received
from shared.bus.subjects import ACTIVITIES, check_sender
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.fleet_records import check_machine
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity
from shared.messages.waker import MachineRecord
from spotinference.bucket_reader import start_view
from spotinference.fleet.view import Row, machine_rows, sum_use

SILENT_SECONDS = 10.0
"""A gateway that has not reported for this long has ended; the waker uses the same limit."""


class FleetWatcher:
    """The machines' records and the gateways' use of them, kept watcher. Each change sets `changed`."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.records = View(FLEET, MachineRecord, self._on_change, check=check_machine)
        self._activities: dict[str, tuple[Activity, float]] = {}

    def rows(self) -> list[Row]:
        oldest = time.monotonic() - SILENT_SECONDS
        activities = [activity for activity, at in self._activities.values() if at > oldest]
        return machine_rows(self.records.values(), sum_use(activities), time.time())

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
            if activity.leaving:
                self._activities.pop(activity.gateway, None)
            else:
                self._activities[activity.gateway] = (activity, time.monotonic())
            self.changed.set()

    def _on_change(self, machine: str) -> None:
        del machine
        self.changed.set()


@asynccontextmanager
async def watch_fleet(bus: Bus) -> AsyncIterator[FleetWatcher]:
    """Watch the fleet. Raises `BusUnavailable` if its bucket cannot be read."""
    watcher = FleetWatcher()
    subscription = await bus.subscribe(ACTIVITIES, watcher.on_activity)
    try:
        await start_view(watcher.records, bus)
        yield watcher
    finally:
        await watcher.records.stop()
        await subscription.stop()
