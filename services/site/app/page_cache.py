"""Rendered pages, kept for a while: many readers cost one rendering."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

V = TypeVar("V")
MOST_ENTRIES = 500
"""Pages in all their forms, the least recently used go first: some 20 MB."""


class PageCache(Generic[V]):
    """Values by key, each loaded once at a time. A failed load is not kept; nor is None, which would displace pages."""

    def __init__(self, monotonic: Callable[[], float], *, most: int = MOST_ENTRIES) -> None:
        self._monotonic = monotonic
        self._most = most
        self._kept: OrderedDict[str, tuple[float, V]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[V]] = {}
        self._clears = 0

    async def get(self, key: str, load: Callable[[], Awaitable[V]], *, fresh_s: float) -> V:
        """Return the value, at most `fresh_s` old. It goes on loading if a caller leaves."""
        if (kept := self._kept.get(key)) is not None and self._monotonic() - kept[0] < fresh_s:
            self._kept.move_to_end(key)
            return kept[1]
        if key not in self._loading:
            self._loading[key] = asyncio.create_task(self._load(key, load), name=f"page {key}")
        return await asyncio.shield(self._loading[key])

    def clear(self) -> None:
        """Load everything anew, since something that pages show has changed. What is loading now may be older."""
        self._clears += 1
        self._kept.clear()

    async def _load(self, key: str, load: Callable[[], Awaitable[V]]) -> V:
        clears = self._clears
        try:
            value = await load()
        finally:
            del self._loading[key]
        if value is None or clears != self._clears:
            return value
        self._kept[key] = (self._monotonic(), value)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return value
