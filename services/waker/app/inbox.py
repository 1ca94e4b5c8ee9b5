"""What has happened since the loop last ran: only the newest event of each kind, so that the inbox stays bounded."""

import asyncio
from collections.abc import Hashable

from services.waker.core.events import Event

MOST_EVENTS = 2000
"""Ten times what large fleets of gateways report between two steps."""


class Inbox:
    """Filled by subscriptions and ended calls, drained by the loop."""

    def __init__(self) -> None:
        self._events: dict[Hashable, Event] = {}
        self._has_events = asyncio.Event()

    def put(self, key: Hashable, event: Event) -> None:
        """Add an event. It replaces an earlier one under the same key: a newer level overrules the older one."""
        self._events.pop(key, None)
        self._events[key] = event
        self._has_events.set()

    def has_room(self, key: Hashable) -> bool:
        """Whether there is room for an event that is repeated if it is left out. Results of calls always have room."""
        return key in self._events or len(self._events) < MOST_EVENTS

    def drain(self) -> list[Event]:
        self._has_events.clear()
        events, self._events = list(self._events.values()), {}
        return events

    async def wait(self, timeout_s: float) -> None:
        """Return when there is an event, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_events.wait()
        except TimeoutError:
            return
