"""A rolled key has two secrets for a while, and never one too many."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from shared.bus.memory import MemoryBus
from shared.bus.topology import KEYS, Bucket
from shared.errors import Rejected
from shared.key_store import create_key, revoke_key, roll_key
from shared.messages.codec import decode
from shared.messages.keys import KeyRecord, digest

NOW = 1_900_000_000.0


async def record_of(bus: MemoryBus, secret: str) -> KeyRecord:
    entry = await bus.get(KEYS, digest(secret))
    assert entry is not None
    return decode(entry.value, KeyRecord)


async def ends(bus: MemoryBus, *secrets: str) -> list[float]:
    """When each secret ends, for a key that is not revoked."""
    records = [await record_of(bus, secret) for secret in secrets]
    assert all(record.revoked_at is None for record in records)
    return [math.inf if record.expires_at is None else record.expires_at for record in records]


async def test_earlier_secret_ends_after_the_overlap_and_the_key_stays_the_same() -> None:
    bus = MemoryBus()
    key_id, first = await create_key(bus, name="n", requests_per_minute=3, models=("a",))
    before = await record_of(bus, first)
    second = await roll_key(bus, key_id, overlap_s=60.0, now=NOW)
    assert second != first
    assert await record_of(bus, second) == msgspec.structs.replace(before, hint=second[-4:])
    assert await ends(bus, first, second) == [NOW + 60.0, math.inf]
    earlier = await record_of(bus, first)
    assert (earlier.id, earlier.requests_per_minute, earlier.replaced_at) == (key_id, 3, NOW)
    assert earlier.usable(NOW + 59.9)
    assert not earlier.usable(NOW + 60.0)


async def test_next_roll_never_extends_an_earlier_secret() -> None:
    bus = MemoryBus()
    key_id, first = await create_key(bus, name="n")
    second = await roll_key(bus, key_id, overlap_s=60.0, now=NOW)
    third = await roll_key(bus, key_id, overlap_s=600.0, now=NOW + 1.0)
    assert await ends(bus, first, second, third) == [NOW + 60.0, NOW + 601.0, math.inf]
    fourth = await roll_key(bus, key_id, overlap_s=0.0, now=NOW + 2.0)
    assert await ends(bus, first, second, third, fourth) == [NOW + 2.0, NOW + 2.0, NOW + 2.0, math.inf]


async def test_both_secrets_keep_the_expiry_of_the_key() -> None:
    bus = MemoryBus()
    key_id, first = await create_key(bus, name="n", expires_at=NOW + 10.0)
    second = await roll_key(bus, key_id, overlap_s=60.0, now=NOW)
    assert await ends(bus, first, second) == [NOW + 10.0, NOW + 10.0]
    with pytest.raises(Rejected, match="expired"):
        await roll_key(bus, key_id, overlap_s=60.0, now=NOW + 10.0)


async def test_revocation_ends_all_secrets_and_rolling() -> None:
    bus = MemoryBus()
    key_id, first = await create_key(bus, name="n")
    second = await roll_key(bus, key_id, overlap_s=60.0, now=NOW)
    assert await revoke_key(bus, key_id, now=NOW + 1.0)
    assert [(await record_of(bus, secret)).revoked_at for secret in (first, second)] == [NOW + 1.0] * 2
    assert await revoke_key(bus, key_id, now=NOW + 2.0)
    assert (await record_of(bus, first)).revoked_at == NOW + 1.0, "when it was first revoked"
    with pytest.raises(Rejected, match="revoked"):
        await roll_key(bus, key_id, overlap_s=60.0, now=NOW)


async def test_unknown_key_and_endless_overlap_are_rejected() -> None:
    bus = MemoryBus()
    key_id, _ = await create_key(bus, name="n")
    for words in (
        (key_id, -1.0, "overlap"),
        (key_id, 1e9, "90 days"),
        (key_id, math.nan, "overlap"),
        ("k9", 1.0, "k9"),
    ):
        with pytest.raises(Rejected, match=words[2]):
            await roll_key(bus, words[0], overlap_s=words[1], now=NOW)
    assert not await revoke_key(bus, "k9", now=NOW)


class BusyBus(MemoryBus):
    """Calls `meanwhile` once, right before a secret is created."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def create(self, bucket: Bucket, key: str, value: bytes) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await super().create(bucket, key, value)


async def test_key_that_is_revoked_while_it_is_rolled_gets_no_secret() -> None:
    bus = BusyBus()
    key_id, _ = await create_key(bus, name="n")
    bus.meanwhile = lambda: revoke_key(bus, key_id, now=NOW)
    with pytest.raises(Rejected, match="revoked meanwhile"):
        await roll_key(bus, key_id, overlap_s=60.0, now=NOW)
    records = [decode(entry.value, KeyRecord) for entry in (await bus.entries(KEYS)).values()]
    assert [record.revoked_at for record in records] == [NOW, NOW]


async def test_interrupted_roll_can_be_repeated() -> None:
    bus = MemoryBus()
    key_id, first = await create_key(bus, name="n")
    lost = await roll_key(bus, key_id, overlap_s=60.0, now=NOW)
    # As if it had ended right after the new secret was stored.
    entry = await bus.get(KEYS, digest(first))
    unchanged = await bus.get(KEYS, digest(lost))
    assert entry is not None
    assert unchanged is not None
    await bus.update(KEYS, digest(first), unchanged.value, revision=entry.revision)
    second = await roll_key(bus, key_id, overlap_s=60.0, now=NOW + 1.0)
    assert await ends(bus, first, lost, second) == [NOW + 61.0, NOW + 61.0, math.inf]


class SimultaneousBus(MemoryBus):
    """Lets each of two rolls store its secret before either ends the earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier: asyncio.Barrier | None = None

    async def create(self, bucket: Bucket, key: str, value: bytes) -> int:
        revision = await super().create(bucket, key, value)
        if self.barrier is not None:
            await self.barrier.wait()
        return revision


async def test_one_secret_survives_two_rolls_at_once() -> None:
    bus = SimultaneousBus()
    key_id, first = await create_key(bus, name="n")
    bus.barrier = asyncio.Barrier(2)
    rolls = (roll_key(bus, key_id, overlap_s=overlap_s, now=NOW) for overlap_s in (0.0, 60.0))
    results = await asyncio.gather(*rolls, return_exceptions=True)
    bus.barrier = None
    (survivor,) = (result for result in results if isinstance(result, str))
    (error,) = (result for result in results if isinstance(result, Rejected))
    assert "rolled meanwhile" in str(error)
    assert await ends(bus, first, survivor) == [NOW, math.inf]
    assert await roll_key(bus, key_id, overlap_s=60.0, now=NOW)
