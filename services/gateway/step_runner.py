"""Work that is too long for one turn of the event loop, done a step at a time."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")


class StepRunner(Generic[T]):
    """Runs one step in each turn of the loop, however many tasks there are: they wait for one another."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[Iterator[T | None], Callable[[], bool], Callable[[Callable[[], T]], None]]] = deque()

    def add(
        self, steps: Iterator[T | None], *, is_wanted: Callable[[], bool], on_done: Callable[[Callable[[], T]], None]
    ) -> None:
        """Take up a task.

        Args:
            steps: yields None until its last step yields the result.
            is_wanted: asked before each step; False ends the task without a word.
            on_done: gets a function that returns the result, or raises what a step raised.
        """
        self._tasks.append((steps, is_wanted, on_done))
        if len(self._tasks) == 1:
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        task = steps, is_wanted, on_done = self._tasks.popleft()
        outcome: Callable[[], T] | None = None
        try:
            if is_wanted():
                result = next(steps)
                if result is None:
                    self._tasks.appendleft(task)
                else:
                    outcome = partial(_return, result)
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is asked for
            outcome = partial(_raise, error)
        if self._tasks:
            asyncio.get_running_loop().call_soon(self._run)
        if outcome is not None:
            on_done(outcome)


def _return(result: T) -> T:
    return result


def _raise(error: Exception) -> NoReturn:
    raise error
