"""Gateways that share a key's limits over a bus, the one in memory and a real server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.gateway.adapters import quota_gossip
from services.gateway.adapters.quota_gossip import QuotaGossip
from services.gateway.core.rate_limits import LimitExceeded, RateLimiter, Reservation, Unsettled
from shared.bus.jetstream import connect
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus, Received
from shared.bus.subjects import limits as limits_subject
from shared.messages.keys import KeyRecord
from shared.tasks import cancel_and_wait
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import PATIENCE_SECONDS, until

TRIES = 100


class Gateway:
    """What a gateway's process has of all this."""

    def __init__(self, name: str, bus: Bus) -> None:
        self.bus = bus
        self.limiter = RateLimiter(name, time.time(), {})
        self.gossip = QuotaGossip(bus, self.limiter, name, time.time)
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self) -> "Gateway":
        await self.gossip.start()
        self.tasks.append(asyncio.create_task(self.gossip.run()))
        return self

    async def ask(self, record: KeyRecord) -> Reservation | LimitExceeded:
        """As the front door does it, with more patience."""
        for _ in range(TRIES):
            decision = self.limiter.admit(record, 1, time.time())
            if not isinstance(decision, Unsettled):
                return decision
            await asyncio.sleep(0.02)
        decision = self.limiter.admit(record, 1, time.time())
        return self.limiter.give_up(decision) if isinstance(decision, Unsettled) else decision


class Recorder:
    """Counts messages."""

    def __init__(self) -> None:
        self._count = 0

    async def on_message(self, _: Received) -> None:
        self._count += 1

    async def count(self) -> int:
        return self._count


class Gateways:
    """Opens them, each with its own connection where there is a server."""

    def __init__(self, stack: AsyncExitStack, server: NatsServer | None) -> None:
        self._stack = stack
        self.server = server
        self.memory = MemoryBus()

    async def open(self, name: str) -> Gateway:
        bus: Bus = self.memory
        if self.server is not None:
            bus = await self._stack.enter_async_context(connect(self.server.url, name=name, wait=PATIENCE_SECONDS))
        gateway = Gateway(name, bus)
        self._stack.push_async_callback(cancel_and_wait, gateway.tasks)
        return await gateway.open()


@pytest.fixture(params=["memory", "nats"])
async def gateways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateways]:
    # An answer needs no more than a moment, on a quiet machine.
    monkeypatch.setattr(quota_gossip, "HELLO_SECONDS", 0.25)
    server = request.getfixturevalue("nats_server") if request.param == "nats" else None
    async with AsyncExitStack() as stack:
        yield Gateways(stack, server)


def key(key_id: str = "k", *, requests_per_minute: int | None = None, concurrency: int | None = None) -> KeyRecord:
    return KeyRecord(
        id=key_id, name="n", created_at=0.0, requests_per_minute=requests_per_minute, concurrency=concurrency
    )


async def test_two_gateways_let_through_what_one_would(gateways: Gateways) -> None:
    first, second = await gateways.open("a"), await gateways.open("b")
    record = key(requests_per_minute=20)
    decisions = [await asyncio.gather(first.ask(record), second.ask(record)) for _ in range(15)]
    assert sum(isinstance(decision, Reservation) for pair in decisions for decision in pair) == 20


async def test_a_burst_on_two_gateways_at_once_stays_within_the_limit(gateways: Gateways) -> None:
    first, second = await gateways.open("a"), await gateways.open("b")
    record = key(concurrency=10)
    decisions = await asyncio.gather(*(gateway.ask(record) for gateway in (first, second) for _ in range(50)))
    assert sum(isinstance(decision, Reservation) for decision in decisions) == 10


@pytest.mark.parametrize("at", [0, 1])
async def test_either_gateway_can_use_all_of_a_low_limit(gateways: Gateways, at: int) -> None:
    both = [await gateways.open("a"), await gateways.open("b")]
    record = key(requests_per_minute=3)
    assert all([isinstance(await both[at].ask(record), Reservation) for _ in range(3)])
    assert all([isinstance(await gateway.ask(record), LimitExceeded) for gateway in both])


async def test_a_newcomer_knows_from_its_start_what_is_used(gateways: Gateways) -> None:
    first = await gateways.open("a")
    record = key(requests_per_minute=4)
    for _ in range(4):
        assert isinstance(await first.ask(record), Reservation)
    second = await gateways.open("b")
    assert isinstance(second.limiter.admit(record, 1, time.time()), LimitExceeded)


async def test_what_a_gateway_had_in_flight_is_free_when_it_has_left(gateways: Gateways) -> None:
    first, second = await gateways.open("a"), await gateways.open("b")
    record = key(concurrency=2)
    assert all([isinstance(await first.ask(record), Reservation) for _ in range(2)])
    assert isinstance(await second.ask(record), LimitExceeded)
    await cancel_and_wait(first.tasks)
    await first.gossip.report(leaving=True)

    async def admit() -> Reservation | LimitExceeded:
        return await second.ask(record)

    assert isinstance(await until(admit, lambda decision: isinstance(decision, Reservation)), Reservation)
    assert isinstance(await second.ask(record), Reservation)


async def test_a_lone_gateway_sends_no_report_per_request() -> None:
    bus, reported = MemoryBus(), Recorder()
    gateway = await Gateway("a", bus).open()
    await bus.subscribe(limits_subject("a"), reported.on_message)
    await until(reported.count, lambda count: count == 1)
    for _ in range(10):
        assert isinstance(await gateway.ask(key(requests_per_minute=100)), Reservation)
        await asyncio.sleep(0.01)  # long enough for a message each
    assert await reported.count() == 1
    await cancel_and_wait(gateway.tasks)


async def test_without_the_bus_each_serves_on_and_after_it_they_share_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.core.quota_coordinator.SILENT_SECONDS", 1.0)
    monkeypatch.setattr(quota_gossip, "PERIOD_SECONDS", 0.2)
    async with AsyncExitStack() as stack:
        gateways = Gateways(stack, nats_server)
        both = [await gateways.open("a"), await gateways.open("b")]
        record = key(requests_per_minute=10)
        nats_server.kill9()

        async def peers() -> int:
            now = time.time()
            return sum(len(gateway.limiter.report(now).heard) for gateway in both)

        await until(peers, lambda count: count == 0)
        for gateway in both:
            assert [isinstance(await gateway.ask(record), Reservation) for _ in range(11)] == [True] * 10 + [False]
        nats_server.start()
        await until(peers, lambda count: count == 2)
        another = key("another", requests_per_minute=6)
        decisions = [await gateway.ask(another) for _ in range(5) for gateway in both]
        assert sum(isinstance(decision, Reservation) for decision in decisions) == 6


async def test_what_is_no_message_is_left_aside(gateways: Gateways) -> None:
    first, second = await gateways.open("a"), await gateways.open("b")
    await first.bus.publish_volatile(limits_subject("x"), b"\xff{")
    decisions = [await gateway.ask(key(requests_per_minute=4)) for _ in range(4) for gateway in (first, second)]
    assert sum(isinstance(decision, Reservation) for decision in decisions) == 4
