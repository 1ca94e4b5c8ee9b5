"""Waiting for what another process does: looked at often, bounded, with the last sight in the failure."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 60.0
"""What has to come comes within this on the slowest machine: no verdict is about speed."""


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, seconds: float = PATIENCE_SECONDS) -> T:
    """What `look` sees once it is `good`; `AssertionError` with what it saw last after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        seen = await look()
        if good(seen):
            return seen
        assert asyncio.get_running_loop().time() < deadline, f"still not after {seconds:g} s: {seen!r}"
        await asyncio.sleep(LOOK_SECONDS)
