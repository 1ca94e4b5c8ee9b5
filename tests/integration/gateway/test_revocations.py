"""A bus that comes back from an older state revives no key that a gateway saw revoked."""

import asyncio
from pathlib import Path

import aiohttp
import msgspec
import pytest

from services.gateway.adapters import revocations as of_gateway
from services.gateway.adapters.revocations import Revocations
from shared.bus.topology import KEYS
from shared.errors import BusUnavailable
from shared.key_records import SavedKey, merge_keys
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.keys import KeyRecord, digest
from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import Opened
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import until


def record(name: str, revoked_at: float | None = None) -> KeyRecord:
    return KeyRecord(id=name, name=name, created_at=0.0, revoked_at=revoked_at)


async def status(front: Front, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{front.url}/v1/models") as answer,
    ):
        return answer.status


async def refused(front: Front, key: str) -> None:
    await until(lambda: status(front, key), lambda seen: seen == 401)


async def test_gateway_with_a_volume_refuses_a_revoked_key_of_an_older_bus(
    opened: Opened, nats_server: NatsServer, tmp_path: Path
) -> None:
    front = await opened()
    key_id, leaked = await front.mint()
    await front.knows(leaked)
    nats_server.stop()
    nats_server.copy_store(tmp_path / "older")
    nats_server.start()

    async def entry() -> KeyRecord | None:
        try:
            stored = await front.bus.get(KEYS, digest(leaked))
        except BusUnavailable:
            return None  # the server has just started
        return None if stored is None else decode(stored.value, KeyRecord)

    usable = await until(entry, bool)
    assert usable is not None
    revoked = msgspec.structs.replace(usable, revoked_at=5.0)
    await front.bus.put(KEYS, digest(leaked), encode(revoked))
    await refused(front, leaked)
    file = front.folder / "gateway" / "revoked.json"
    await until(lambda: asyncio.to_thread(file.exists), bool)
    assert (file.stat().st_mode & 0o777, key_id in file.read_text()) == (0o600, True)
    await front.service.kill9()

    nats_server.stop()
    nats_server.restore_store(tmp_path / "older")
    nats_server.start()
    await front.service.start()
    assert (await until(entry, bool)) == usable, "the bus is the older one"
    assert await status(front, leaked) == 401
    assert await status(front, front.key) == 200
    assert await front.metric("revocations") == await front.metric("revocations_missing") == 1
    assert "setup" in (await alarms(front))["keys"]

    new = await opened(folder="new")
    assert await status(new, leaked) == 200, "it has seen no revocation"
    await merge_keys(front.bus, [SavedKey(digest=digest(leaked), record=revoked)])
    await refused(new, leaked)
    await until(lambda: alarms(front), lambda stored: not stored)
    assert await front.metric("revocations_missing") == 0


async def alarms(front: Front) -> dict[str, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{front.service.announced.metrics_url}/readyz") as answer,
    ):
        return dict((await answer.json()).get("alarms", {}))


async def test_running_gateway_refuses_a_revoked_key_that_the_bus_revives(opened: Opened) -> None:
    front = await opened()
    _, leaked = await front.mint()
    await front.knows(leaked)
    stored = await front.bus.get(KEYS, digest(leaked))
    assert stored is not None
    revoked = msgspec.structs.replace(decode(stored.value, KeyRecord), revoked_at=5.0)
    await front.bus.put(KEYS, digest(leaked), encode(revoked))
    await refused(front, leaked)
    await front.bus.put(KEYS, digest(leaked), stored.value)
    await until(lambda: front.metric("revocations_missing"), lambda missing: missing == 1)
    assert await status(front, leaked) == 401


async def test_damaged_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "gateway" / "revoked.json"
    file.parent.mkdir()
    file.write_bytes(b'{"key_ids": [1')
    revocations = Revocations(tmp_path, is_writer=True, now=lambda: 50.0)
    revocations.check("d", record("k1", 1.0))
    revocations.save()
    again = Revocations(tmp_path, is_writer=True, now=lambda: 50.0)
    with pytest.raises(Unreadable, match="k1 was revoked"):
        again.check("d", record("k1"))
    again.check("d", record("k2"))


def test_memory_is_bounded_and_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_gateway, "MOST_REMEMBERED", 2)
    revocations = Revocations(tmp_path, is_writer=False, now=lambda: 50.0)
    for number in range(3):
        revocations.check("d", record(f"k{number}", 1.0))
    revocations.check("d", record("k0"))
    assert revocations.count == 2
    revocations.save()
    assert list(tmp_path.iterdir()) == [], "another worker writes"


async def test_replaced_secret_that_has_ended_stays_refused(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path, is_writer=True, now=lambda: 50.0)
    before = record("one")
    revocations.check("a" * 64, msgspec.structs.replace(before, replaced_at=10.0, expires_at=40.0))
    revocations.check("b" * 64, msgspec.structs.replace(before, replaced_at=10.0, expires_at=60.0))
    revocations.save()

    again = Revocations(tmp_path, is_writer=True, now=lambda: 50.0)
    with pytest.raises(Unreadable, match="was replaced"):
        again.check("a" * 64, before)
    again.check("b" * 64, before)  # its overlap goes on
    again.check("c" * 64, before)
