"""A bucket whose values only ever rise, whichever replica of the meter is faster."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from shared.bus.ports import Bus, Entry
from shared.bus.topology import Bucket
from shared.errors import BusUnavailable, Conflict
from shared.messages.codec import Unreadable, decode, encode

M = TypeVar("M", bound=msgspec.Struct)

TRIES = 5
"""Against other replicas that raise the same value; the next sweep raises what these did not."""
AT_ONCE = 50
"""Values under way: a batch may touch hundreds, and each is two round trips."""


class MonotonicBucket(Generic[M]):
    """`height` says which of two messages of one key is the higher one. What is not of `kind` is below all."""

    def __init__(self, bus: Bus, bucket: Bucket, kind: type[M], height: Callable[[M], Any]) -> None:
        self._bus = bus
        self._bucket = bucket
        self._kind = kind
        self._height = height

    async def raise_all(self, messages: Mapping[str, M]) -> None:
        """Each bucket key to its message. All are tried, then the first fault is raised."""
        waiting = list(messages.items())
        for start in range(0, len(waiting), AT_ONCE):
            work = (self._raise(key, message) for key, message in waiting[start : start + AT_ONCE])
            for result in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    async def sweep(self, messages: Mapping[str, M]) -> None:
        """The same for many of which few are lower on the bus: all of them when it lost its data."""
        told = await self._bus.entries(self._bucket)
        await self.raise_all({key: m for key, m in messages.items() if self._is_above(m, told.get(key))})

    async def _raise(self, key: str, message: M) -> None:
        value = encode(message)
        for _ in range(TRIES):
            entry = await self._bus.get(self._bucket, key)
            if not self._is_above(message, entry):
                return
            try:
                if entry is None:
                    await self._bus.create(self._bucket, key, value)
                else:
                    await self._bus.update(self._bucket, key, value, revision=entry.revision)
            except Conflict:
                continue
            return
        raise BusUnavailable(f"{self._bucket.name}/{key} changed {TRIES} times meanwhile")

    def _is_above(self, message: M, entry: Entry | None) -> bool:
        if entry is None:
            return True
        try:
            return bool(self._height(message) > self._height(decode(entry.value, self._kind)))
        except Unreadable:
            return True
