"""Work that is too long for one turn of the event loop, done a step at a time."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class StepRunner(Generic[T]):
    """Runs one step in each turn of the loop, however many tasks there are: they wait for one another."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[Iterator[T | None], Callable[[], bool], Callable[[T | Exception], None]]] = deque()

    def add(
        self, steps: Iterator[T | None], *, is_wanted: Callable[[], bool], on_done: Callable[[T | Exception], None]
    ) -> None:
        """Take up a task.

        Args:
            steps: yields None until its last step yields the result.
            is_wanted: asked before each step; False ends the task without a word.
            on_done: gets the result, or what a step raised. It must not keep that: it holds all that the step had.
        """
        self._tasks.append((steps, is_wanted, on_done))
        if len(self._tasks) == 1:
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        task = steps, is_wanted, on_done = self._tasks.popleft()
        wanted = is_wanted()
        try:
            result = next(steps) if wanted else None
        except Exception as error:  # noqa: BLE001 - whoever waits for the result is told
            # No name may hold it for longer: with its traceback, which has this frame, it would keep the body.
            self._schedule()
            on_done(error)
            return
        if wanted and result is None:
            self._tasks.appendleft(task)
        self._schedule()
        if result is not None:
            on_done(result)

    def _schedule(self) -> None:
        if self._tasks:
            asyncio.get_running_loop().call_soon(self._run)
