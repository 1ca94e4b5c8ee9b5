"""A bucket in memory, decoded and kept current by a watch."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec
import structlog

from shared.bus.ports import Bus, Changed, Handle, Restarted, WatchEvent
from shared.bus.subjects import name
from shared.bus.topology import Bucket
from shared.messages.codec import Unreadable, decode

M = TypeVar("M", bound=msgspec.Struct)
D = TypeVar("D")
log = structlog.get_logger()


class View(Mapping[str, M], Generic[M]):
    """Read-only mapping of the bucket's keys, as the names they were made of, to messages.

    `revision(key)` is what an update has to name. An unreadable value is logged and left out. `on_change` is
    called after each change with the key, and after a restarted watch for every key.
    """

    def __init__(self, bucket: Bucket, kind: type[M], on_change: Callable[[str], None] = lambda _key: None) -> None:
        self._bucket = bucket
        self._kind = kind
        self._on_change = on_change
        self._values: dict[str, tuple[M, int]] = {}
        self._told: set[str] | None = None
        self._synced = asyncio.Event()
        self._handle: Handle | None = None

    async def start(self, bus: Bus) -> None:
        """Returns once the bucket as it stands has been read."""
        self._handle = await bus.watch(self._bucket, self._on_event)
        await self._synced.wait()

    async def stop(self) -> None:
        if self._handle:
            await self._handle.stop()

    def revision(self, key: str) -> int:
        return self._values[key][1]

    def __getitem__(self, key: str) -> M:
        return self._values[key][0]

    def get(self, key: str, default: D | None = None) -> M | D | None:  # type: ignore[override]  # the mixin's goes the long way; this one is on each request's
        found = self._values.get(key)
        return default if found is None else found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Restarted):
            self._told = set()
        elif isinstance(event, Changed):
            change = Changed(name(event.key), event.value, event.revision)
            if self._told is not None:
                self._told.add(change.key)
            self._apply(change)
        else:
            for key in set(self._values) - (self._told or set()):
                self._apply(Changed(key, None, 0))
            self._told = None
            self._synced.set()

    def _apply(self, change: Changed) -> None:
        if change.value is None:
            self._values.pop(change.key, None)
        else:
            try:
                self._values[change.key] = (decode(change.value, self._kind), change.revision)
            except Unreadable as error:
                log.error("unreadable bucket value", bucket=self._bucket.name, key=change.key, error=str(error))
                # What was there before is no longer true: a revoked key, a machine that went away.
                self._values.pop(change.key, None)
        self._on_change(change.key)
