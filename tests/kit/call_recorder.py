"""Records the calls of a callback, and waits for them."""

import asyncio
from collections.abc import Callable

from shared.bus.ports import Received, WatchEvent
from tests.kit.waiting import PATIENCE_SECONDS


class CallRecorder:
    """Use it as the callback of a watch or a view, and `receive` as that of a subscription."""

    def __init__(self) -> None:
        self.events: list[WatchEvent | Received | str] = []
        self._called = asyncio.Event()

    def __call__(self, event: WatchEvent | Received | str) -> None:
        self.events.append(event)
        self._called.set()

    async def receive(self, message: Received) -> None:
        self(message)

    async def until(self, done: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Look again after each call; `TimeoutError` after so many seconds."""
        async with asyncio.timeout(seconds):
            while not done():
                self._called.clear()
                await self._called.wait()

    async def length(self, number: int) -> None:
        await self.until(lambda: len(self.events) >= number)
