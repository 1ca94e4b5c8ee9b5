"""What gateways report, as long as they are there."""

from shared.bus.ports import Received
from shared.fleet_watcher import SILENT_SECONDS, FleetWatcher
from shared.messages.codec import encode
from shared.messages.gateway import Activity


async def test_gateways_that_died_are_forgotten() -> None:
    clock = [0.0]
    watcher = FleetWatcher(monotonic=lambda: clock[0])
    for number in range(100):
        activity = Activity(gateway=f"gw-{number}", sent_at=0.0, machines={})
        await watcher.on_activity(Received(f"activity.gw-{number}", encode(activity)))
        clock[0] += SILENT_SECONDS / 2
        assert len(watcher._activities) <= 3
    assert [activity.gateway for activity in watcher.activities()] == ["gw-99"]
