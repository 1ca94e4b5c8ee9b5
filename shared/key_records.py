"""The records of API keys in their bucket, and how copies of them are merged.

A key may have several secrets, each with a record under its SHA-256; they share the key's id and limits. A record only
ever ends earlier: a revocation is for good, and an end moves to the front. So two copies merge in any order.
"""

import asyncio
import math
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from shared.bus.ports import Bus, Entry
from shared.bus.topology import KEYS
from shared.errors import Conflict
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.keys import KeyRecord

MAX_ATTEMPTS = 5
"""Against others who change the same records."""
MAX_CONCURRENT = 50
"""Records written at the same time."""


class SavedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key's record under the SHA-256 of its secret."""

    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    record: KeyRecord


@dataclass(frozen=True)
class Merged:
    """What a merge changed on the bus."""

    returned: int = 0
    """Records that the bus lacked, or whose value could not be read."""
    ended: int = 0
    """Records that are revoked again, or end as early as they did."""

    @property
    def changed(self) -> int:
        return self.returned + self.ended


def merge_records(record: KeyRecord, other: KeyRecord) -> KeyRecord:
    """Return what holds of a secret that has two records: the earlier end and the earlier revocation."""
    earlier = min(record, other, key=lambda r: (math.inf if r.expires_at is None else r.expires_at, not r.replaced_at))
    revoked = [(r.revoked_at, r.revoked_by) for r in (record, other) if r.revoked_at is not None]
    at, by = min(revoked, key=lambda each: (each[0], each[1] or ""), default=(None, None))
    return msgspec.structs.replace(earlier, revoked_at=at, revoked_by=by)


def revocations(records: Iterable[KeyRecord]) -> dict[str, float]:
    """Return by id when each revoked key was revoked. A revocation of one secret is one of its key."""
    revoked: dict[str, float] = {}
    for record in records:
        if record.revoked_at is not None:
            revoked[record.id] = min(record.revoked_at, revoked.get(record.id, math.inf))
    return revoked


def merge_copies(records: Iterable[SavedKey], others: Iterable[SavedKey]) -> dict[str, KeyRecord]:
    """Return by digest what holds of every secret in two copies."""
    merged: dict[str, KeyRecord] = {}
    for saved in (*records, *others):
        known = merged.get(saved.digest)
        merged[saved.digest] = saved.record if known is None else merge_records(known, saved.record)
    revoked = revocations(merged.values())
    return {
        digest: msgspec.structs.replace(record, revoked_at=revoked[record.id])
        if record.id in revoked and record.revoked_at is None
        else record
        for digest, record in merged.items()
    }


async def merge_keys(bus: Bus, saved: Iterable[SavedKey]) -> Merged:
    """Create the saved records that are missing or unreadable, and end what ended in the saved copy.

    What has ended on the bus stays so: nothing saved lifts a revocation. May run beside another one.
    """
    copy, returned, ended = list(saved), 0, 0
    for _ in range(MAX_ATTEMPTS):
        entries = await bus.entries(KEYS)
        on_bus = {digest: record for digest, entry in entries.items() if (record := _decoded(entry.value)) is not None}
        shown = (SavedKey(digest=digest, record=record) for digest, record in on_bus.items())
        merged = merge_copies(shown, copy)
        different = {digest: record for digest, record in merged.items() if on_bus.get(digest) != record}
        writes = {digest: _write(bus, digest, record, entries.get(digest)) for digest, record in different.items()}
        written = await _run(writes)
        returned += len(written - on_bus.keys())
        ended += len(written & on_bus.keys())
        if len(written) == len(different):
            return Merged(returned, ended)
    raise Conflict(f"bucket {KEYS.name} changed during each of {MAX_ATTEMPTS} attempts to merge keys: repeat it")


def _decoded(value: bytes) -> KeyRecord | None:
    try:
        return decode(value, KeyRecord)
    except Unreadable:
        return None  # those who watch the bucket report it


async def _write(bus: Bus, digest: str, record: KeyRecord, entry: Entry | None) -> bool:
    """Return whether nobody else was first."""
    try:
        if entry is None:
            await bus.create(KEYS, digest, encode(record))
        else:
            await bus.update(KEYS, digest, encode(record), revision=entry.revision)
    except Conflict:
        return False
    return True


async def _run(writes: Mapping[str, Coroutine[Any, Any, bool]]) -> set[str]:
    """Return the keys of what returned True."""
    items, done = list(writes.items()), set[str]()
    for start in range(0, len(items), MAX_CONCURRENT):
        chunk = items[start : start + MAX_CONCURRENT]
        results = await asyncio.gather(*(write for _, write in chunk))
        done.update(key for (key, _), result in zip(chunk, results, strict=True) if result)
    return done
