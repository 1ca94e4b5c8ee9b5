"""What has happened since the loop looked last: only the newest of each kind, so that it cannot grow without bound."""

import asyncio
from collections.abc import Hashable

from services.waker.core.events import Event


class Inbox:
    """Filled by subscriptions and by calls that end, emptied by the loop."""

    def __init__(self) -> None:
        self._events: dict[Hashable, Event] = {}
        self._told = asyncio.Event()

    def tell(self, key: Hashable, event: Event) -> None:
        """Replaces what came under this key and was not taken yet: a level overrules the level before."""
        self._events.pop(key, None)
        self._events[key] = event
        self._told.set()

    def take(self) -> list[Event]:
        self._told.clear()
        events, self._events = list(self._events.values()), {}
        return events

    async def wait(self, seconds: float) -> None:
        """Until something is there, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._told.wait()
        except TimeoutError:
            return
