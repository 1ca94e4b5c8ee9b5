"""A replaced key or password of a bus's user is used without a restart."""

import asyncio
from pathlib import Path

import pytest

from shared.bus.access import BusAccess
from shared.bus.jetstream import JetStreamBus, connect
from shared.config.load import parse
from shared.runtime.suite_file import BUS_URL_VARIABLE, bus_access
from spotinference.nats_config.users import open_users
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import PATIENCE_SECONDS, until


def authorize(server: NatsServer, *users: str) -> None:
    server.more = f"authorization {{ users = [{', '.join(users)}] }}"
    server.reload()


async def is_connected(bus: JetStreamBus, *, expected: bool) -> None:
    await until(lambda: asyncio.sleep(0, bus.connected), lambda connected: connected is expected)


async def test_a_replaced_nkey_reconnects_a_service_whose_old_one_was_withdrawn(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    old, new = (
        {user.name: user for user in open_users(tmp_path / name)}["meter"].public_key for name in ("old", "new")
    )
    file = tmp_path / "meter.nk"
    file.write_bytes((tmp_path / "old" / "meter.nk").read_bytes())
    authorize(nats_server, f"{{ nkey: {old} }}")
    access = BusAccess(urls=(nats_server.url,), nkey_file=file, role="meter")
    async with connect(access, name="meter", wait=PATIENCE_SECONDS) as bus:
        authorize(nats_server, f"{{ nkey: {new} }}")
        await is_connected(bus, expected=False)
        file.write_bytes((tmp_path / "new" / "meter.nk").read_bytes())
        await is_connected(bus, expected=True)


async def test_a_replaced_password_in_the_url_file_reconnects_a_service(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def url(password: str) -> str:
        return nats_server.url.replace("//", f"//meter:{password}@")

    file = tmp_path / "url"
    file.write_text(url("first"))
    monkeypatch.setenv(f"{BUS_URL_VARIABLE}_FILE", str(file))
    authorize(nats_server, "{ user: meter, password: first }")
    access = bus_access(parse("", "c"), tmp_path, "meter")
    async with connect(access, name="meter", wait=PATIENCE_SECONDS) as bus:
        authorize(nats_server, "{ user: meter, password: second }")
        await is_connected(bus, expected=False)
        file.write_text(url("second"))
        await is_connected(bus, expected=True)
