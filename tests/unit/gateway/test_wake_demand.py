"""Demand is told as it stands, also where it changes while it is being told."""

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from services.gateway.adapters import wake_demand
from services.gateway.adapters.wake_demand import WakeDemand
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.waiting_queue import Ticket
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
        self.reported: list[WakeRequest] = []
        self.publish_count = 0
        self.goes = asyncio.Event()
        self.failures = 0

    async def publish(self, subject: str, data: bytes, *, message_id: str | None = None) -> None:
        self.publish_count += 1
        await self.goes.wait()
        if self.failures:
            self.failures -= 1
            raise BusUnavailable("as the test says")
        await super().publish(subject, data, message_id=message_id)
        self.reported.append(decode(data, WakeRequest))

    async def levels(self, *expected: int) -> None:
        await until(
            lambda: asyncio.sleep(0, [reported.waiting for reported in self.reported]),
            lambda reported: reported == [*expected],
        )


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
        self._scheduler.remove(ticket)
        self._demand.changed("m")

    async def reporting(self, count: int) -> None:
        await until(lambda: asyncio.sleep(0, self.bus.publish_count), lambda publish_count: publish_count == count)


@pytest.fixture
async def waiters() -> AsyncIterator[Waiters]:
    results = Waiters()
    yield results
    await cancel_and_wait([results.task])


async def test_the_last_request_leaving_during_a_publish_is_published_at_once(waiters: Waiters) -> None:
    ticket = waiters.come()
    await waiters.reporting(1)
    waiters.go(ticket)
    waiters.bus.goes.set()
    await waiters.bus.levels(1, 0)


async def test_a_request_arriving_during_the_withdrawal_is_published_at_once(waiters: Waiters) -> None:
    waiters.bus.goes.set()
    ticket = waiters.come()
    await waiters.bus.levels(1)
    waiters.bus.goes.clear()
    waiters.go(ticket)
    await waiters.reporting(2)
    waiters.come()
    waiters.bus.goes.set()
    await waiters.bus.levels(1, 0, 1)


async def test_a_failed_publish_is_retried_soon(waiters: Waiters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake_demand, "RETRY_SECONDS", 0.01)
    waiters.bus.failures = 2
    waiters.bus.goes.set()
    waiters.go(waiters.come())
    waiters.come()
    await waiters.bus.levels(1)
    assert waiters.bus.publish_count == 3


async def test_the_keys_that_wait_are_named_and_those_at_their_limit_are_no_demand(waiters: Waiters) -> None:
    waiters.bus.goes.set()
    waiters.come("limited", may_wake=False)
    first = waiters.come("a")
    await waiters.bus.levels(1)
    (reported,) = waiters.bus.reported
    assert [one.key_id for one in reported.causes] == ["a"]
    assert reported.seconds_left == pytest.approx(60, abs=30)
    waiters.go(first)
    await waiters.bus.levels(1, 0)


async def test_requests_that_do_not_wait_share_one_message(waiters: Waiters) -> None:
    await asyncio.sleep(0)
    for key in ("a", "b", "a"):
        waiters.request_once(key)
    waiters.bus.goes.set()
    await waiters.bus.levels(3)
    (reported,) = waiters.bus.reported
    assert [one.key_id for one in reported.causes] == ["a", "b"]
    assert reported.request_ids == ("r-a", "r-b", "r-a")
