"""Works are done while the lease is held, tried again where they are refused, and end with it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from shared import leading
from shared.bus.lease import Lease
from shared.bus.memory import MemoryBus
from shared.bus.topology import LEASES
from shared.errors import BusUnavailable
from shared.leading import Leadership, Work
from shared.tasks import end
from tests.kit.waiting import until

pytestmark = pytest.mark.usefixtures("_quick")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(leading, "LOOK_SECONDS", 0.01)


async def comes(true: Callable[[], bool]) -> None:
    async def look() -> bool:
        return true()

    await until(look, bool)


class Clock:
    """A lease's monotonic clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Counts its terms and does what it is told."""

    def __init__(self) -> None:
        self.terms: list[str] = []
        self.done = 0
        self.refusals = 0
        self.fails: Exception | None = None
        self.opens_not = 0

    async def begin(self, stack: AsyncExitStack) -> Sequence[Work]:
        if self.opens_not:
            self.opens_not -= 1
            raise BusUnavailable("no answer")
        self.terms.append("begun")
        stack.callback(self.terms.append, "ended")
        return [Work(name="count", do=self.do, pause=leading.every(0.001))]

    async def do(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise TimeoutError("the database is away")
        if self.fails is not None:
            raise self.fails
        self.done += 1


async def held(clock: Clock, bus: MemoryBus) -> Lease:
    lease = Lease(bus, "desk", "me", clock)
    assert await lease.renew()
    return lease


async def test_it_works_while_the_lease_is_held_and_again_with_the_next() -> None:
    clock, bus, desk = Clock(), MemoryBus(), Desk()
    lease = await held(clock, bus)
    task = asyncio.create_task(Leadership(desk.begin).run(lease))
    try:
        await comes(lambda: desk.done > 2)
        clock.now = 1e6  # paused for long: the lease is over by the clock, though nobody said so
        await comes(lambda: desk.terms == ["begun", "ended"])
        done = desk.done
        await bus.delete(LEASES, "desk")
        assert not await lease.renew()
        assert desk.done == done
        assert await lease.renew()
        await comes(lambda: desk.done > done)
        assert desk.terms == ["begun", "ended", "begun"]
    finally:
        await end([task])
    assert desk.terms[-1] == "ended"


async def test_what_is_refused_is_tried_again_and_told_meanwhile() -> None:
    desk = Desk()
    desk.refusals = 3
    leadership = Leadership(desk.begin)
    task = asyncio.create_task(leadership.run(await held(Clock(), MemoryBus())))
    try:
        await comes(lambda: leadership.fault is not None)
        assert leadership.fault == "count: TimeoutError: the database is away"
        await comes(lambda: desk.done > 0)
        assert leadership.fault is None
    finally:
        await end([task])


async def test_a_term_that_cannot_begin_is_begun_again() -> None:
    desk = Desk()
    desk.opens_not = 2
    task = asyncio.create_task(Leadership(desk.begin).run(await held(Clock(), MemoryBus())))
    try:
        await comes(lambda: desk.done > 0)
        assert desk.terms == ["begun"]
    finally:
        await end([task])


async def test_a_defect_ends_it() -> None:
    desk = Desk()
    desk.fails = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(60):
            await Leadership(desk.begin).run(await held(Clock(), MemoryBus()))
    assert desk.terms == ["begun", "ended"]
