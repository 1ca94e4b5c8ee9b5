"""Periodic tasks run while the lease is held, are retried after failures, and end with the lease."""

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
    monkeypatch.setattr(leadership, "POLL_SECONDS", 0.01)


async def until_true(condition: Callable[[], bool]) -> None:
    async def check() -> bool:
        return condition()

    await until(check, bool)


class Clock:
    """A lease's monotonic clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class RecordingLeader:
    """Counts its terms and its task's runs, and fails as often as configured."""

    def __init__(self) -> None:
        self.terms: list[str] = []
        self.runs = 0
        self.timeouts = 0
        self.error: Exception | None = None
        self.failing_begins = 0

    async def begin(self, stack: AsyncExitStack) -> Sequence[PeriodicTask]:
        if self.failing_begins:
            self.failing_begins -= 1
            raise BusUnavailable("no answer")
        self.terms.append("begun")
        stack.callback(self.terms.append, "ended")
        return [PeriodicTask(name="count", run=self.run_count, pause=periodic.every(0.001))]

    async def run_count(self) -> None:
        if self.timeouts:
            self.timeouts -= 1
            raise TimeoutError("the database is away")
        if self.error is not None:
            raise self.error
        self.runs += 1


async def held(clock: Clock, bus: MemoryBus) -> Lease:
    lease = Lease(bus, "desk", "me", clock)
    assert await lease.renew()
    return lease


async def test_tasks_run_while_the_lease_is_held_and_in_the_next_term() -> None:
    clock, bus, leader = Clock(), MemoryBus(), RecordingLeader()
    lease = await held(clock, bus)
    task = asyncio.create_task(Leadership(leader.begin, PeriodicTasks(CollectorRegistry())).run(lease))
    try:
        await until_true(lambda: leader.runs > 2)
        clock.now = 1e6  # a long pause: by the clock the lease has expired, though no call failed
        await until_true(lambda: leader.terms == ["begun", "ended"])
        runs = leader.runs
        await bus.delete(LEASES, "desk")
        assert not await lease.renew()
        assert leader.runs == runs
        assert await lease.renew()
        await until_true(lambda: leader.runs > runs)
        assert leader.terms == ["begun", "ended", "begun"]
    finally:
        await cancel_and_wait([task])
    assert leader.terms[-1] == "ended"


async def test_a_failing_task_is_retried_and_reported_meanwhile() -> None:
    leader = RecordingLeader()
    leader.timeouts = 3
    tasks = PeriodicTasks(CollectorRegistry())
    task = asyncio.create_task(Leadership(leader.begin, tasks).run(await held(Clock(), MemoryBus())))
    try:
        await until_true(lambda: tasks.fault is not None)
        assert tasks.fault == "count: TimeoutError: the database is away"
        await until_true(lambda: leader.runs > 0)
        assert tasks.fault is None
    finally:
        await cancel_and_wait([task])


async def test_a_term_that_cannot_begin_is_retried() -> None:
    leader = RecordingLeader()
    leader.failing_begins = 2
    leadership = Leadership(leader.begin, PeriodicTasks(CollectorRegistry()))
    task = asyncio.create_task(leadership.run(await held(Clock(), MemoryBus())))
    try:
        await until_true(lambda: leader.runs > 0)
        assert leader.terms == ["begun"]
    finally:
        await cancel_and_wait([task])


class LeaderWithTwoTasks(RecordingLeader):
    """Has a second task."""

    def __init__(self) -> None:
        super().__init__()
        self.other_runs = 0

    async def begin(self, stack: AsyncExitStack) -> Sequence[PeriodicTask]:
        return [
            *await super().begin(stack),
            PeriodicTask(name="other", run=self.run_other, pause=periodic.every(0.001)),
        ]

    async def run_other(self) -> str | None:
        self.other_runs += 1
        return "2026-11-20 cannot be made" if self.other_runs > 3 else None


@pytest.mark.parametrize("error_raised", [ZeroDivisionError("x"), RecursionError(), KeyError("y"), Unreadable("z")])
async def test_a_failing_task_does_not_affect_the_others(error_raised: Exception) -> None:
    leader, registry = LeaderWithTwoTasks(), CollectorRegistry()
    leader.error = error_raised
    tasks = PeriodicTasks(registry)
    task = asyncio.create_task(Leadership(leader.begin, tasks).run(await held(Clock(), MemoryBus())))

    def value(name: str, work: str) -> float:
        return registry.get_sample_value(name, {"work": work}) or 0.0

    try:
        await until_true(lambda: value("spot_work_failures_total", "count") > 1 and leader.other_runs > 5)
        assert tasks.fault is not None
        assert f"count: {type(error_raised).__name__}" in tasks.fault
        assert tasks.alarm == "other: 2026-11-20 cannot be made", "it works, so it is no fault"
        assert value("spot_work_failing", "count") == 1
        leader.error = None
        await until_true(lambda: leader.runs > 0)
        assert [tasks.fault, tasks.alarm] == [None, "other: 2026-11-20 cannot be made"]
        assert (value("spot_work_failing", "count"), value("spot_work_failing", "other")) == (0, 1)
        assert leader.terms == ["begun"]
    finally:
        await cancel_and_wait([task])


def test_retries_back_off_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tasks = PeriodicTasks(CollectorRegistry())
    assert [tasks.record_failure("w", KeyError(), n) for n in (1, 2, 3, 7, 1000)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    away = BusUnavailable("gone")
    assert [tasks.record_failure("w", away, n) for n in (1, 2, 3, 4, 1000)] == [1.0, 2.0, 4.0, 5.0, 5.0]
