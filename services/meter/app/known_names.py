"""The keys and the gateways whose usage is counted: those that exist or ever existed.

A key is on the bus before a gateway accepts it, and a gateway announces its source's name there before its first
event. So a meter that holds an event and reads the bus afterwards has both names, however late its watch is; a name
that is not there belongs to nobody. Without this check, one message on `usage.*` could put anything on anybody's bill.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from services.meter.core.batch import Batch
from services.meter.core.event_validation import is_name
from services.meter.ports import QuarantineStore
from shared.bus.ports import Bus
from shared.bus.topology import KEYS, SOURCES, Bucket
from shared.bus.view import View
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import UsageSource
from shared.messages.keys import KeyRecord

M = TypeVar("M", KeyRecord, UsageSource)

READ_INTERVAL_S = 1.0
"""Between two reads of the buckets for unknown names: sending such names costs their sender nothing."""


class KnownNames:
    """`vet` checks every batch; `store_new_keys` is to be called periodically. A known name stays known."""

    def __init__(
        self,
        bus: Bus,
        store: QuarantineStore,
        monotonic: Callable[[], float],
        on_key: Callable[[str, KeyRecord | None], None] = lambda _digest, _record: None,
    ) -> None:
        """`on_key` is called with each change of a key's record, under the SHA-256 of its secret."""
        self._bus = bus
        self._store = store
        self._monotonic = monotonic
        self._announce_key = on_key
        self._keys: set[str] = set()
        self._sources: set[str] = set()
        self._unstored_keys: set[str] = set()
        self._new_names: set[str] = set()
        self._lookup_lock = asyncio.Lock()
        self._buckets_read_at = float("-inf")
        self._key_view = View(KEYS, KeyRecord, self._on_key)
        self._source_view = View(SOURCES, UsageSource, self._on_source)

    async def start(self) -> None:
        """Return once the keys and the sources have been read."""
        await self._key_view.start(self._bus)
        await self._source_view.start(self._bus)

    async def stop(self) -> None:
        await self._key_view.stop()
        await self._source_view.stop()

    def on_gateway(self, source: str) -> None:
        """Add a gateway that sent a heartbeat."""
        self._add_source(source)

    async def vet(self, batch: Batch) -> Batch:
        """Return the batch with the events of unknown keys and sources in quarantine.

        Raises `BusUnavailable` or one of `DATABASE_ERRORS` if it cannot be known which these are.
        """
        keys, sources = batch.keys - self._keys, batch.sources - self._sources
        if keys or sources:
            await self._resolve(keys, sources)
        if self._unstored_keys & batch.keys:
            await self.store_new_keys()  # before they count: events may be repeated after the bus has lost the key
        keys, sources = keys - self._keys, sources - self._sources
        return batch.quarantine_unknown(keys, sources) if keys or sources else batch

    async def store_new_keys(self) -> None:
        """Store new keys for good. Raises one of `DATABASE_ERRORS`."""
        keys, self._unstored_keys = self._unstored_keys, set()
        try:
            await self._store.remember_keys(keys)
        except BaseException:
            self._unstored_keys |= keys
            raise

    def pop_new_names(self) -> set[str]:
        """Return the names that became known since the last call."""
        names, self._new_names = self._new_names, set()
        return names

    async def _resolve(self, keys: set[str], sources: set[str]) -> None:
        """Look the names up in the ledger, then on the bus."""
        async with self._lookup_lock:
            stored_keys, stored_sources = await self._store.known_names(keys - self._keys, sources - self._sources)
            self._keys |= stored_keys
            self._sources |= stored_sources
            if not (keys <= self._keys and sources <= self._sources):
                await self._read_buckets()

    async def _read_buckets(self) -> None:
        await asyncio.sleep(max(0.0, self._buckets_read_at + READ_INTERVAL_S - self._monotonic()))
        self._buckets_read_at = self._monotonic()
        for record in await self._read_bucket(KEYS, KeyRecord):
            self._add_key(record.id)
        for source in await self._read_bucket(SOURCES, UsageSource):
            self._add_source(source.source)

    async def _read_bucket(self, bucket: Bucket, message_type: type[M]) -> list[M]:
        messages = []
        for entry in (await self._bus.entries(bucket)).values():
            try:
                messages.append(decode(entry.value, message_type))
            except Unreadable:
                continue  # the view has reported it
        return messages

    def _on_key(self, key: str) -> None:
        record = self._key_view.get(key)
        if record is not None:
            self._add_key(record.id)
        self._announce_key(key, record)

    def _on_source(self, key: str) -> None:
        if source := self._source_view.get(key):
            self._add_source(source.source)

    def _add_key(self, key_id: str) -> None:
        if key_id not in self._keys and is_name(key_id):
            self._keys.add(key_id)
            self._unstored_keys.add(key_id)
            self._new_names.add(key_id)

    def _add_source(self, source: str) -> None:
        if source not in self._sources and is_name(source):
            self._sources.add(source)
            self._new_names.add(source)
