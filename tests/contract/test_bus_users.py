"""A service whose key is replaced signs in with the new one at its next connection."""

import asyncio
from pathlib import Path

from click.testing import CliRunner

from shared.bus import subjects
from shared.bus.access import USER, BusAccess
from shared.bus.jetstream import connect
from shared.bus.ports import Received
from shared.bus.provision import provision
from shared.bus.topology import METER
from spotinference.__main__ import main
from spotinference.nats_config.server_config import authorization
from spotinference.nats_config.users import open_users
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import PATIENCE_SECONDS, until


async def test_a_replaced_key_is_used_without_a_restart(nats_server: NatsServer, tmp_path: Path) -> None:
    users = tmp_path / "users"
    nats_server.more = CliRunner().invoke(main, ["nats-config", "--users-dir", str(users)]).stdout
    nats_server.restart()
    access = BusAccess(urls=(nats_server.url,), nkey_file=users / f"{USER}.nk")
    async with connect(access.for_role("setup"), name="setup", wait=PATIENCE_SECONDS) as setup:
        await provision(setup)
    async with connect(access.for_role("meter"), name="meter", wait=PATIENCE_SECONDS) as bus:
        await bus.put(METER, "confirmed.x", b"1")
        before = access.for_role("meter").seed()
        await asyncio.to_thread((users / "meter.nk").unlink)
        nats_server.more = authorization(open_users(users))
        assert access.for_role("meter").seed() != before
        nats_server.reload()

        async def reconnects() -> int:
            return int(bus.client.stats["reconnects"]) if bus.connected else 0

        await until(reconnects, bool)
        await bus.put(METER, "confirmed.x", b"2")
        entry = await bus.get(METER, "confirmed.x")
        assert entry is not None
        assert entry.value == b"2"


async def test_machine_publishes_only_under_its_own_name(nats_server: NatsServer, tmp_path: Path) -> None:
    users = tmp_path / "users"
    nats_server.more = authorization(open_users(users, machines=("gpu-1", "gpu-2")))
    nats_server.restart()
    received: list[bytes] = []

    async def on_notice(message: Received) -> None:
        received.append(message.data)

    access = BusAccess(urls=(nats_server.url,), nkey_file=users / f"{USER}.nk")
    async with (
        connect(access.for_role("waker"), name="waker", wait=PATIENCE_SECONDS) as waker,
        connect(access.for_role("gpu-1"), name="gpu-1", wait=PATIENCE_SECONDS) as machine,
    ):
        await waker.subscribe(subjects.MACHINE_NOTICES, on_notice)
        await machine.publish_volatile(subjects.machine_notice("gpu-2"), b"forged")
        await machine.publish_volatile(subjects.activity("gateway"), b"forged")
        await machine.publish_volatile(subjects.machine_notice("gpu-1"), b"own")
        await until(lambda: asyncio.sleep(0, received), bool)
        assert received == [b"own"]
