"""The embedded bus keeps to its part of the disk, and what steers the fleet has room when usage has none."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.provision import provision
from shared.bus.server_health import server_fault
from shared.bus.topology import FLEET, KEYS, LEASES
from shared.errors import BusUnavailable
from spotinference.up.nats_server import NatsServer
from spotinference.up.store_limits import StoreLimits
from tests.kit.waiting import PATIENCE_SECONDS


@asynccontextmanager
async def started(bus: NatsServer) -> AsyncIterator[JetStreamBus]:
    await bus.start()
    try:
        async with connect(bus.access("setup"), name="test", wait=PATIENCE_SECONDS) as client:
            await provision(client, usage_bytes=bus.limits.usage)
            yield client
            assert await server_fault(bus.health_url, seconds=PATIENCE_SECONDS) is None
    finally:
        await bus.stop()


async def fill(client: JetStreamBus) -> int:
    """Usage events that the bus takes until it takes no more."""
    for count in range(100):
        try:
            await client.publish(subjects.usage("gateway-1"), bytes(50_000), message_id=f"{count}")
        except BusUnavailable:
            return count
    raise AssertionError("it takes everything")


async def test_usage_without_room_leaves_some_to_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = NatsServer(tmp_path / "bus", tmp_path / "bus.log", os.environ)
    # Then on a smaller disk; the total is never below what the server has noted for the stream.
    for limits in (StoreLimits(total=3_000_000, usage=1_000_000), StoreLimits(total=1_000_000, usage=500_000)):
        monkeypatch.setattr("spotinference.up.nats_server.measure", MagicMock(return_value=limits))
        async with started(bus) as client:
            assert await fill(client) > 15  # those before are not stored again
            for bucket in (LEASES, KEYS, FLEET):
                await client.put(bucket, "m", b"1")
