"""The fleet, kept current: the machines' records and what the gateways do with them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from shared.bus.ports import Bus, Received
from shared.bus.subjects import ACTIVITIES
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.fleet_records import check_machine
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity
from shared.messages.waker import MachineRecord
from spotinference.bucket_reader import start_view
from spotinference.fleet.view import Row, machine_rows, sum_use

SILENT_SECONDS = 10.0
"""A gateway that was not heard for this long has gone, as the waker has it."""


class FleetWatcher:
    """The records and what gateways do with the machines, kept current. `changed` is set by each news of them."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.records = View(FLEET, MachineRecord, self._on_change, check=check_machine)
        self._activities: dict[str, tuple[Activity, float]] = {}

    def machine_rows(self) -> list[Row]:
        patience = time.monotonic() - SILENT_SECONDS
        activities = [activity for activity, at in self._activities.values() if at > patience]
        return machine_rows(self.records.values(), sum_use(activities), time.time())

    async def wait_for_change(self, seconds: float) -> None:
        """Returns at the next change, at the latest after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        self.changed.clear()

    async def on_activity(self, received: Received) -> None:
        with suppress(Unreadable):  # it is the gateway's fault, and the waker logs it
            activity = decode(received.data, Activity)
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
    """The fleet as it stands, then kept current. `BusUnavailable` where the bucket cannot be read."""
    current = FleetWatcher()
    listening = await bus.subscribe(ACTIVITIES, current.on_activity)
    try:
        await start_view(current.records, bus)
        yield current
    finally:
        await current.records.stop()
        await listening.stop()
