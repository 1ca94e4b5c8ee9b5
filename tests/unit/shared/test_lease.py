"""A leader that was paused or cut off finds out by its own clock before it acts."""

import asyncio
from typing import Any

import pytest

from shared.bus import lease as lease_module
from shared.bus.lease import LEADERLESS_SECONDS, Lease
from shared.bus.memory import MemoryBus
from shared.bus.ports import Entry
from shared.bus.topology import LEASE_SECONDS, LEASES
from shared.tasks import cancel_and_wait
from tests.kit.waiting import until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
def lease(memory: MemoryBus, clock: Clock) -> Lease:
    return Lease(memory, "waker", "w1", clock)


async def test_a_lease_is_held_for_its_time_and_no_longer(lease: Lease, clock: Clock) -> None:
    assert not lease.held
    assert await lease.renew()
    clock.now += LEASE_SECONDS - 0.01
    assert lease.held
    clock.now += 0.01
    assert not lease.held
    assert not await lease.verify()  # although the server still has it


async def test_a_renewal_keeps_the_token(lease: Lease, clock: Clock) -> None:
    await lease.renew()
    token = lease.token
    clock.now += 3
    assert await lease.renew()
    clock.now += 3
    assert (lease.held, lease.token) == (True, token)


async def test_a_short_loss_of_the_bus_costs_nothing(lease: Lease, memory: MemoryBus, clock: Clock) -> None:
    await lease.renew()
    token = lease.token
    memory.connected = False
    clock.now += 2
    assert await lease.renew()  # still held, though not renewed
    clock.now += LEASE_SECONDS - 2.5
    memory.connected = True
    assert await lease.renew()
    assert lease.token == token


async def test_a_long_loss_of_the_bus_costs_the_lease_and_the_next_token_is_higher(
    lease: Lease, memory: MemoryBus, clock: Clock
) -> None:
    await lease.renew()
    token = lease.token
    assert token is not None
    memory.connected = False
    clock.now += LEASE_SECONDS
    assert not await lease.renew()
    assert lease.token is None
    memory.connected = True
    await memory.delete(LEASES, "waker")  # the server let it expire
    assert await lease.renew()
    assert lease.token is not None
    assert lease.token > token


async def test_a_lease_counts_from_before_the_call_to_the_server(memory: MemoryBus, clock: Clock) -> None:
    class Slow(MemoryBus):
        async def create(self, *arguments: object, **named: object) -> int:
            clock.now += 2
            return await MemoryBus.create(self, *arguments, **named)  # type: ignore[arg-type]  # passed on as it came

    lease = Lease(Slow(), "waker", "w1", clock)
    assert await lease.renew()
    clock.now += LEASE_SECONDS - 2
    assert not lease.held


async def test_release_without_the_lease_leaves_it_to_its_holder(lease: Lease, memory: MemoryBus, clock: Clock) -> None:
    await lease.renew()
    other = Lease(memory, "waker", "w2", clock)
    await other.release()
    assert await lease.verify()


async def test_verify_fails_when_the_answer_arrived_during_a_pause(
    lease: Lease, memory: MemoryBus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lease.renew()
    get = memory.get

    async def paused(*arguments: Any) -> Entry | None:
        answer = await get(*arguments)
        clock.now += LEASE_SECONDS
        return answer

    monkeypatch.setattr(memory, "get", paused)
    assert not await lease.verify()


async def test_verify_succeeds_when_a_renewal_overtakes_it(
    lease: Lease, memory: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lease.renew()
    get = memory.get

    async def renewed_first(*arguments: Any) -> Entry | None:
        entry = await get(*arguments)
        assert entry is not None
        await memory.update(LEASES, "waker", b"w1", revision=entry.revision)  # its answer is still on the way
        return await get(*arguments)

    monkeypatch.setattr(memory, "get", renewed_first)
    assert await lease.verify()


async def test_a_bus_that_rejects_the_lease_is_a_fault(lease: Lease, memory: MemoryBus, clock: Clock) -> None:
    clock.now += LEADERLESS_SECONDS
    assert lease.fault is None
    memory.connected = False
    await lease.renew()
    clock.now += 1
    assert lease.fault == f"nobody has led for {LEADERLESS_SECONDS + 1:.0f} s: not connected"
    memory.connected = True
    await lease.renew()
    assert (lease.fault, lease.leaderless_seconds) == (None, 0.0)


async def test_a_leader_that_renews_is_seen_by_a_standby_and_one_that_does_not_is_not(
    lease: Lease, memory: MemoryBus, clock: Clock
) -> None:
    revision = await memory.create(LEASES, "waker", b"another")
    for _ in range(10):
        clock.now += LEASE_SECONDS / 3
        revision = await memory.update(LEASES, "waker", b"another", revision=revision)
        assert not await lease.renew()
        assert lease.fault is None
    clock.now += LEADERLESS_SECONDS + 1  # the key stays, nobody renews it: the server lets nothing expire
    await lease.renew()
    assert lease.fault is not None
    assert "not renewed" in lease.fault


async def test_a_replica_that_may_not_lead_gives_the_lease_up_and_lets_another_lead(
    memory: MemoryBus, lease: Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.03)
    may_lead = True
    keeping = asyncio.create_task(lease.keep(lambda: may_lead))
    await until(lambda: asyncio.sleep(0, lease.held), bool)
    may_lead = False
    other = Lease(memory, "waker", "w2", clock)
    await until(other.renew, bool)
    assert not lease.held
    clock.now += 100
    await until(lambda: asyncio.sleep(0, lease.leaderless_seconds), lambda seconds: seconds == 100)
    await other.renew()
    await until(lambda: asyncio.sleep(0, lease.leaderless_seconds), lambda seconds: seconds == 0)
    await cancel_and_wait([keeping])
