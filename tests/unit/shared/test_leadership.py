"""Works are done while the lease is held, tried again where they are refused, and end with it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry

from shared import leadership, periodic
from shared.bus.lease import Lease
from shared.bus.memory import MemoryBus
from shared.bus.topology import LEASES
from shared.errors import BusUnavailable
from shared.leadership import Leadership
from shared.messages.codec import Unreadable
from shared.periodic import PeriodicTask, PeriodicTasks
from shared.tasks import cancel_and_wait
from tests.kit.waiting import until

pytestmark = pytest.mark.usefixtures("_quick")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(leadership, "LOOK_SECONDS", 0.01)


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

    async def begin(self, stack: AsyncExitStack) -> Sequence[PeriodicTask]:
        if self.opens_not:
            self.opens_not -= 1
            raise BusUnavailable("no answer")
        self.terms.append("begun")
        stack.callback(self.terms.append, "ended")
        return [PeriodicTask(name="count", run=self.do, pause=periodic.every(0.001))]

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
    task = asyncio.create_task(Leadership(desk.begin, PeriodicTasks(CollectorRegistry())).run(lease))
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
        await cancel_and_wait([task])
    assert desk.terms[-1] == "ended"


async def test_what_is_refused_is_tried_again_and_told_meanwhile() -> None:
    desk = Desk()
    desk.refusals = 3
    pieces = PeriodicTasks(CollectorRegistry())
    task = asyncio.create_task(Leadership(desk.begin, pieces).run(await held(Clock(), MemoryBus())))
    try:
        await comes(lambda: pieces.fault is not None)
        assert pieces.fault == "count: TimeoutError: the database is away"
        await comes(lambda: desk.done > 0)
        assert pieces.fault is None
    finally:
        await cancel_and_wait([task])


async def test_a_term_that_cannot_begin_is_begun_again() -> None:
    desk = Desk()
    desk.opens_not = 2
    leadership = Leadership(desk.begin, PeriodicTasks(CollectorRegistry()))
    task = asyncio.create_task(leadership.run(await held(Clock(), MemoryBus())))
    try:
        await comes(lambda: desk.done > 0)
        assert desk.terms == ["begun"]
    finally:
        await cancel_and_wait([task])


class Office(Desk):
    """Has a second piece of work."""

    def __init__(self) -> None:
        super().__init__()
        self.others = 0

    async def begin(self, stack: AsyncExitStack) -> Sequence[PeriodicTask]:
        return [*await super().begin(stack), PeriodicTask(name="other", run=self.do_other, pause=periodic.every(0.001))]

    async def do_other(self) -> str | None:
        self.others += 1
        return "2026-11-20 cannot be made" if self.others > 3 else None


@pytest.mark.parametrize("defect", [ZeroDivisionError("x"), RecursionError(), KeyError("y"), Unreadable("z")])
async def test_a_work_that_fails_in_any_way_fails_alone(defect: Exception) -> None:
    desk, registry = Office(), CollectorRegistry()
    desk.fails = defect
    pieces = PeriodicTasks(registry)
    task = asyncio.create_task(Leadership(desk.begin, pieces).run(await held(Clock(), MemoryBus())))

    def value(name: str, work: str) -> float:
        return registry.get_sample_value(name, {"work": work}) or 0.0

    try:
        await comes(lambda: value("spot_work_failures_total", "count") > 1 and desk.others > 5)
        assert pieces.fault is not None
        assert f"count: {type(defect).__name__}" in pieces.fault
        assert "other: 2026-11-20 cannot be made" in pieces.fault
        assert value("spot_work_failing", "count") == 1
        desk.fails = None
        await comes(lambda: desk.done > 0)
        assert pieces.fault == "other: 2026-11-20 cannot be made"
        assert value("spot_work_failing", "count") == 0
        assert desk.terms == ["begun"]
    finally:
        await cancel_and_wait([task])


def test_it_is_tried_again_ever_later_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pieces = PeriodicTasks(CollectorRegistry())
    assert [pieces.record_failure("w", KeyError(), n) for n in (1, 2, 3, 7, 1000)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    away = BusUnavailable("gone")
    assert [pieces.record_failure("w", away, n) for n in (1, 2, 3, 4, 1000)] == [1.0, 2.0, 4.0, 5.0, 5.0]
