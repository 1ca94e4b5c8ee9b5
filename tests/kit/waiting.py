"""Waits until another process has done something: polls often, with a bound, and reports the last value."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 60.0
"""Enough on the slowest machine: no test is about speed."""


async def until(
    read: Callable[[], Awaitable[T]], is_done: Callable[[T], bool], *, seconds: float = PATIENCE_SECONDS
) -> T:
    """What `read` returns once `is_done` holds for it; `AssertionError` with its last value after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        seen = await read()
        if is_done(seen):
            return seen
        assert asyncio.get_running_loop().time() < deadline, f"still not after {seconds:g} s: {seen!r}"
        await asyncio.sleep(POLL_SECONDS)
