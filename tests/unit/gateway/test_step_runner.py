"""Long work, a step in each turn of the loop."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

from services.gateway.step_runner import StepRunner


class Task:
    """Counts its steps, and what it is told at its end."""

    def __init__(self, steps: int, *, fails: bool = False) -> None:
        self.done = 0
        self.wanted = True
        self.outcome: str | None = None
        self._steps = steps
        self._fails = fails

    def start(self, runner: StepRunner[str]) -> None:
        runner.add(self._run(), is_wanted=lambda: self.wanted, on_done=self._end)

    def _end(self, outcome: str | Exception) -> None:
        self.outcome = str(outcome)

    def _run(self) -> Iterator[str | None]:
        for _ in range(self._steps):
            self.done += 1
            yield None
        if self._fails:
            raise ValueError("as told")
        yield "done"


async def test_each_turn_of_the_loop_runs_one_step_of_all_tasks() -> None:
    runner: StepRunner[str] = StepRunner()
    tasks = [Task(3), Task(2)]
    for task in tasks:
        task.start(runner)
    for steps in range(1, 8):
        await asyncio.sleep(0)
        outcomes = sum(task.outcome is not None for task in tasks)
        assert sum(task.done for task in tasks) + outcomes == steps
    assert [task.outcome for task in tasks] == ["done", "done"]


async def test_a_task_that_fails_or_is_not_wanted_any_more_stops_no_other() -> None:
    runner: StepRunner[str] = StepRunner()
    failing, left, other = Task(1, fails=True), Task(5), Task(1)
    for task in (failing, left, other):
        task.start(runner)
    left.wanted = False
    for _ in range(10):
        await asyncio.sleep(0)
    assert failing.outcome == "as told"
    assert (left.done, left.outcome) == (0, None)
    assert other.outcome is not None
    later = Task(0)
    later.start(runner)
    await asyncio.sleep(0)
    assert later.outcome is not None


class Body:
    """Something whose end can be seen."""


async def test_what_a_failed_task_had_is_released_without_the_collector() -> None:
    runner: StepRunner[str] = StepRunner()
    outcomes: list[str] = []

    def steps(body: Body) -> Iterator[str | None]:
        yield None
        raise ValueError(type(body).__name__)

    body = Body()
    released = weakref.ref(body)
    gc.disable()
    try:
        runner.add(steps(body), is_wanted=lambda: True, on_done=lambda outcome: outcomes.append(str(outcome)))
        del body
        for _ in range(3):
            await asyncio.sleep(0)
        assert outcomes == ["Body"]
        assert released() is None
    finally:
        gc.enable()
