"""The keys and the gateways whose usage is counted: those that exist, or ever did.

A key is on the bus before a gateway takes it, and a gateway writes its source's name there before its first event. So
whoever holds an event and reads the bus anew finds both names, however late the watch is: what is not there then is
nobody's. Without this, one message on `usage.*` could put anything on anybody's bill.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from services.meter.adapters.quarantine_store import SqlQuarantineStore
from services.meter.core.batch import Batch, is_name
from shared.bus.ports import Bus
from shared.bus.topology import KEYS, SOURCES, Bucket
from shared.bus.view import View
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import UsageSource
from shared.messages.keys import KeyRecord

M = TypeVar("M", KeyRecord, UsageSource)

LOOK_SECONDS = 1.0
"""Between two readings of the buckets for names that nobody knows: they cost whoever sends them nothing."""


class KnownNames:
    """`vet` every batch; `keep` now and then. A name that was known once stays known."""

    def __init__(self, bus: Bus, quarantine: SqlQuarantineStore, monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._quarantine = quarantine
        self._monotonic = monotonic
        self._keys: set[str] = set()
        self._sources: set[str] = set()
        self._to_remember: set[str] = set()
        self._appeared: set[str] = set()
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._key_view = View(KEYS, KeyRecord, self._on_key)
        self._source_view = View(SOURCES, UsageSource, self._on_source)

    async def start(self) -> None:
        """Returns once the keys and the sources have been read."""
        await self._key_view.start(self._bus)
        await self._source_view.start(self._bus)

    async def stop(self) -> None:
        await self._key_view.stop()
        await self._source_view.stop()

    def on_gateway(self, source: str) -> None:
        """A gateway was heard."""
        self._add_source(source)

    async def vet(self, batch: Batch) -> Batch:
        """The batch with what nobody may have sent in quarantine.

        Raises `BusUnavailable` or one of `shared.database.AWAY` when that cannot be told.
        """
        keys, sources = batch.keys - self._keys, batch.sources - self._sources
        if keys or sources:
            await self._look_up(keys, sources)
        if self._to_remember & batch.keys:
            await self.keep()  # before they count: they may come again when the bus has lost the key
        keys, sources = keys - self._keys, sources - self._sources
        return batch.quarantine_unknown(keys, sources) if keys or sources else batch

    async def keep(self) -> None:
        """Remember new keys for good. Raises one of `shared.database.AWAY`."""
        keys, self._to_remember = self._to_remember, set()
        try:
            await self._quarantine.remember(keys)
        except BaseException:
            self._to_remember |= keys
            raise

    def appeared(self) -> set[str]:
        """The names that became known since the last call."""
        appeared, self._appeared = self._appeared, set()
        return appeared

    async def _look_up(self, keys: set[str], sources: set[str]) -> None:
        """In the ledger, then on the bus."""
        async with self._looking:
            found_keys, found_sources = await self._quarantine.known(keys - self._keys, sources - self._sources)
            self._keys |= found_keys
            self._sources |= found_sources
            if not (keys <= self._keys and sources <= self._sources):
                await self._read_buckets()

    async def _read_buckets(self) -> None:
        await asyncio.sleep(max(0.0, self._looked_at + LOOK_SECONDS - self._monotonic()))
        self._looked_at = self._monotonic()
        for record in await self._entries(KEYS, KeyRecord):
            self._add_key(record.id)
        for source in await self._entries(SOURCES, UsageSource):
            self._add_source(source.source)

    async def _entries(self, bucket: Bucket, kind: type[M]) -> list[M]:
        found = []
        for entry in (await self._bus.entries(bucket)).values():
            try:
                found.append(decode(entry.value, kind))
            except Unreadable:
                continue  # the view has said so
        return found

    def _on_key(self, key: str) -> None:
        if record := self._key_view.get(key):
            self._add_key(record.id)

    def _on_source(self, key: str) -> None:
        if source := self._source_view.get(key):
            self._add_source(source.source)

    def _add_key(self, key_id: str) -> None:
        if key_id not in self._keys and is_name(key_id):
            self._keys.add(key_id)
            self._to_remember.add(key_id)
            self._appeared.add(key_id)

    def _add_source(self, source: str) -> None:
        if source not in self._sources and is_name(source):
            self._sources.add(source)
            self._appeared.add(source)
