"""Ends asyncio tasks reliably."""

import asyncio
from collections.abc import Iterable
from typing import Any

REPEAT_SECONDS = 0.2
"""How long a task may take to clean up before it is cancelled once more."""


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, repeatedly, until they have ended.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, which the NATS client uses, loses a cancellation that
    arrives at the moment when its result is ready.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=REPEAT_SECONDS)
