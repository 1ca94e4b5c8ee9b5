"""A bucket whose values only ever rise, however many replicas of the meter write them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from shared.bus.ports import Bus, Entry
from shared.bus.topology import Bucket
from shared.errors import BusUnavailable, Conflict
from shared.messages.codec import Unreadable, decode, encode

M = TypeVar("M", bound=msgspec.Struct)

MAX_ATTEMPTS = 5
"""Against replicas that raise the same value; the next sweep raises what these attempts did not."""
MAX_CONCURRENT = 50
"""Values written at the same time: a batch may touch hundreds, and each is two round trips."""


class MonotonicBucket(Generic[M]):
    """`rank` orders two messages of one key. A value that is not of `message_type` ranks below all."""

    def __init__(self, bus: Bus, bucket: Bucket, message_type: type[M], rank: Callable[[M], Any]) -> None:
        self._bus = bus
        self._bucket = bucket
        self._message_type = message_type
        self._rank = rank

    async def raise_all(self, messages: Mapping[str, M]) -> None:
        """Raise the value under each bucket key. All are tried; then the first error is raised."""
        items = list(messages.items())
        for start in range(0, len(items), MAX_CONCURRENT):
            work = (self._raise(key, message) for key, message in items[start : start + MAX_CONCURRENT])
            results = await asyncio.gather(*work, return_exceptions=True)
            errors = [result for result in results if isinstance(result, BaseException)]
            try:
                if errors:
                    raise errors[0]
            finally:  # the error's traceback has this frame, and would keep it and itself
                errors.clear()
                results.clear()

    async def raise_lower(self, messages: Mapping[str, M]) -> None:
        """Do the same for many messages of which few are lower on the bus, unless the bus lost its data."""
        entries = await self._bus.entries(self._bucket)
        await self.raise_all({key: m for key, m in messages.items() if self._is_above(m, entries.get(key))})

    async def _raise(self, key: str, message: M) -> None:
        value = encode(message)
        for _ in range(MAX_ATTEMPTS):
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
        raise BusUnavailable(f"{self._bucket.name}/{key} changed during each of {MAX_ATTEMPTS} attempts to raise it")

    def _is_above(self, message: M, entry: Entry | None) -> bool:
        if entry is None:
            return True
        try:
            return bool(self._rank(message) > self._rank(decode(entry.value, self._message_type)))
        except Unreadable:
            return True
