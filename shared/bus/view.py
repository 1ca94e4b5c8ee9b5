"""A copy of a bucket in memory, decoded and kept current by a watch."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

import msgspec

from shared.bus.ports import Bus, Changed, Handle, Rejections, Restarted, WatchEvent
from shared.bus.subjects import name
from shared.bus.topology import Bucket
from shared.messages.codec import Unreadable, decode, encode

M = TypeVar("M", bound=msgspec.Struct)
D = TypeVar("D")
MOST_REJECTED = 10_000
"""How many rejected entries of a bucket are remembered: far more than an operator leaves there."""


class Irrelevant(Unreadable):
    """What a `check` raises for an entry that is well-formed and meant for other readers."""


class View(Mapping[str, M], Generic[M]):
    """A read-only mapping from names to messages. The names are those that the bucket's keys were made from.

    `revision(key)` is what an update has to pass. An entry whose key or value cannot be decoded is left out, counted
    and logged once. So is an entry for which `check` raises `Unreadable`; for `Irrelevant`, it is only left out.
    `on_change` is called with the key after each change, and with every key after a watch has restarted.
    """

    def __init__(
        self,
        bucket: Bucket,
        kind: type[M],
        on_change: Callable[[str], None] = lambda _key: None,
        *,
        check: Callable[[str, M], None] = lambda _key, _message: None,
    ) -> None:
        self.bucket = bucket
        self.version = 0
        """Rises with each change."""
        self._kind = kind
        self._on_change = on_change
        self._check = check
        self._values: dict[str, tuple[M, int, float]] = {}
        """By key: the message, its revision, and when it was stored by this process's monotonic clock."""
        self._seen: set[str] | None = None
        self._synced = asyncio.Event()
        self._handle: Handle | None = None
        self._rejections: Rejections | None = None
        self._refused: dict[str, tuple[Changed, float]] = {}
        """The entries for which `check` raised, by key, and when each was stored by this process's clock."""
        self._rejected: dict[str, int] = {}
        """The revision at which each unreadable entry was reported, by key."""

    async def start(self, bus: Bus) -> None:
        """Return once the current content of the bucket has been read."""
        await self.open(bus)
        await self.wait_until_synced()

    async def open(self, bus: Bus, *, age_s: float = 0.0) -> None:
        """Begin to read the bucket. `age_s` is how old the entries are that `restore` will add."""
        self._rejections = bus.rejections
        self._handle = await bus.watch(self.bucket, self._on_event, age_s=age_s)

    async def wait_until_synced(self) -> None:
        await self._synced.wait()

    @property
    def is_synced(self) -> bool:
        """Whether the content of the bucket has been read once."""
        return self._synced.is_set()

    def restore(self, entry: Changed) -> None:
        """Add an entry of an earlier time, unless the bus has already delivered a newer one."""
        if not self.is_synced and (self._seen is None or entry.key not in self._seen):
            self._apply(entry)

    async def stop(self) -> None:
        if self._handle:
            await self._handle.stop()

    def recheck(self) -> None:
        """Apply `check` to every entry again: what it accepts has changed."""
        refused = list(self._refused.values())
        for key, (message, _, _) in list(self._values.items()):
            try:
                self._check(key, message)
            except Unreadable:
                change = Changed(key, encode(message), self.revision(key), self.age(key))
                self._apply(change)
        for change, stored_at in refused:
            self._apply(replace(change, age_s=time.monotonic() - stored_at))

    def revision(self, key: str) -> int:
        return self._values[key][1]

    def age(self, key: str) -> float:
        """Return how many seconds ago the value was stored; infinity if there is none."""
        entry = self._values.get(key)
        return math.inf if entry is None else time.monotonic() - entry[2]

    def __getitem__(self, key: str) -> M:
        return self._values[key][0]

    def get(self, key: str, default: D | None = None) -> M | D | None:  # type: ignore[override]  # the mixin's goes the long way; this one is on each request's
        entry = self._values.get(key)
        return default if entry is None else entry[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Restarted):
            self._seen = set()
        elif isinstance(event, Changed):
            try:
                change = Changed(name(event.key), event.value, event.revision, event.age_s)
            except Unreadable as error:
                self._reject(event, error)
                return
            if self._seen is not None:
                self._seen.add(change.key)
            self._apply(change)
        else:
            for key in {*self._values, *self._refused} - (self._seen or set()):
                self._apply(Changed(key, None, 0))
            self._seen = None
            self._synced.set()

    def _apply(self, change: Changed) -> None:
        self.version += 1
        self._refused.pop(change.key, None)
        if change.value is None:
            self._values.pop(change.key, None)
        else:
            try:
                message = decode(change.value, self._kind)
                self._check_or_keep(change, message)
                self._values[change.key] = (message, change.revision, time.monotonic() - change.age_s)
            except Unreadable as error:
                if not isinstance(error, Irrelevant):
                    self._reject(change, error)
                # The former value is no longer true: a revoked key, a machine that went away.
                self._values.pop(change.key, None)
        try:
            self._on_change(change.key)
        except Exception as error:
            # One entry that breaks its reader must not end the watch, and with it the process, again and again.
            if self._rejections is None:
                raise
            self._rejections.record(self.bucket.name, error, traceback=True, entry=change.key)

    def _check_or_keep(self, change: Changed, message: M) -> None:
        """Raise `Unreadable` if `check` does, and keep the entry for `recheck`."""
        try:
            self._check(change.key, message)
        except Unreadable:
            if len(self._refused) < MOST_REJECTED:
                self._refused[change.key] = change, time.monotonic() - change.age_s
            raise

    def _reject(self, entry: Changed, error: Unreadable) -> None:
        """Report an entry once: a restarted watch delivers it again."""
        if entry.value is None:
            self._rejected.pop(entry.key, None)
        elif self._rejected.get(entry.key) != entry.revision and self._rejections is not None:
            if len(self._rejected) >= MOST_REJECTED:
                self._rejected.clear()
            self._rejected[entry.key] = entry.revision
            self._rejections.record(self.bucket.name, error, entry=entry.key)
