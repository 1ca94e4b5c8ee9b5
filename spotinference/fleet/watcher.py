"""Opens the watcher of the fleet for a command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.bus.ports import Bus
from shared.bus.subjects import ACTIVITIES
from shared.fleet_watcher import FleetWatcher
from spotinference.bucket_reader import start_view


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
