"""Demand is told as it stands, also where it changes while it is being told."""

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from services.gateway.adapters import wake_demand
from services.gateway.adapters.wake_demand import WakeDemand
from services.gateway.core.scheduler import RequestScheduler, Ticket
from shared.bus.memory import MemoryBus
from shared.config.load import parse
from shared.errors import BusUnavailable
from shared.messages.codec import decode
from shared.messages.gateway import WakeCause, WakeRequest
from shared.tasks import cancel_and_wait
from tests.kit.waiting import until

CONFIG = parse(
    """
    [[tier]]
    name = "t"
    provider = "static"
    [[machine]]
    id = "s"
    tier = "t"
    endpoint = "http://127.0.0.1:1"
    [[model]]
    name = "m"
    lineup = ["t"]
    """,
    "test",
)
NEVER = 3600.0
"""Seconds between repeats: what a test hears was told for another reason."""


class SlowBus(MemoryBus):
    """Takes a message when it is let, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[WakeRequest] = []
        self.asked = 0
        self.goes = asyncio.Event()
        self.failures = 0

    async def publish(self, subject: str, data: bytes, *, message_id: str | None = None) -> None:
        self.asked += 1
        await self.goes.wait()
        if self.failures:
            self.failures -= 1
            raise BusUnavailable("as the test says")
        await super().publish(subject, data, message_id=message_id)
        self.told.append(decode(data, WakeRequest))

    async def levels(self, *wanted: int) -> None:
        await until(lambda: asyncio.sleep(0, [told.waiting for told in self.told]), lambda told: told == [*wanted])


def cause(key: str) -> WakeCause:
    return WakeCause(key_id=key, wakes_per_hour=5, cost_per_day=Decimal("1.00"))


class Waiters:
    """One model's, and the task that tells of them."""

    def __init__(self) -> None:
        self.bus = SlowBus()
        self._scheduler = RequestScheduler(CONFIG, {})
        self._demand = WakeDemand(self.bus, self._scheduler, "g", NEVER, time.time)
        self.task = asyncio.create_task(self._demand.run())

    def come(self, key: str = "k", *, may_wake: bool = True) -> Ticket:
        ticket = Ticket(
            "m",
            key,
            "r",
            time.time() + 60,
            lambda _machine: None,
            lambda _error: None,
            cause=cause(key),
            may_wake=may_wake,
        )
        self._scheduler.enqueue(ticket)
        self._demand.changed("m")
        return ticket

    def request_once(self, key: str) -> None:
        self._demand.request_once("m", f"r-{key}", cause(key), time.time() + 60)

    def go(self, ticket: Ticket) -> None:
        self._scheduler.leave(ticket)
        self._demand.changed("m")

    async def telling(self, count: int) -> None:
        await until(lambda: asyncio.sleep(0, self.bus.asked), lambda asked: asked == count)


@pytest.fixture
async def waiters() -> AsyncIterator[Waiters]:
    found = Waiters()
    yield found
    await cancel_and_wait([found.task])


async def test_the_last_who_leaves_while_it_is_told_is_told_at_once(waiters: Waiters) -> None:
    ticket = waiters.come()
    await waiters.telling(1)
    waiters.go(ticket)
    waiters.bus.goes.set()
    await waiters.bus.levels(1, 0)


async def test_who_comes_while_the_end_is_told_is_told_at_once(waiters: Waiters) -> None:
    waiters.bus.goes.set()
    ticket = waiters.come()
    await waiters.bus.levels(1)
    waiters.bus.goes.clear()
    waiters.go(ticket)
    await waiters.telling(2)
    waiters.come()
    waiters.bus.goes.set()
    await waiters.bus.levels(1, 0, 1)


async def test_what_could_not_be_told_is_told_soon_after(waiters: Waiters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake_demand, "RETRY_SECONDS", 0.01)
    waiters.bus.failures = 2
    waiters.bus.goes.set()
    waiters.go(waiters.come())
    waiters.come()
    await waiters.bus.levels(1)
    assert waiters.bus.asked == 3


async def test_the_keys_that_wait_are_named_and_those_at_their_limit_are_no_demand(waiters: Waiters) -> None:
    waiters.bus.goes.set()
    waiters.come("limited", may_wake=False)
    first = waiters.come("a")
    await waiters.bus.levels(1)
    (told,) = waiters.bus.told
    assert [one.key_id for one in told.causes] == ["a"]
    assert told.seconds_left == pytest.approx(60, abs=30)
    waiters.go(first)
    await waiters.bus.levels(1, 0)


async def test_all_who_ask_without_waiting_are_named_in_one_message(waiters: Waiters) -> None:
    await asyncio.sleep(0)
    for key in ("a", "b", "a"):
        waiters.request_once(key)
    waiters.bus.goes.set()
    await waiters.bus.levels(3)
    (told,) = waiters.bus.told
    assert [one.key_id for one in told.causes] == ["a", "b"]
    assert told.request_ids == ("r-a", "r-b", "r-a")
