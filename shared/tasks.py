"""Ending asyncio tasks for sure."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 0.2
"""What a task may take to clean up before it is told once more."""


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until they have ended.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, which the NATS client waits with, forgets a
    cancellation that comes in the moment in which what it waits for is there.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
