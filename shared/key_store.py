"""Creates, rolls and revokes API keys in their bucket. Only the SHA-256 of a secret is stored.

A rolled key has several secrets for a while, each with a record of its own under its SHA-256. The records share the
key's id, under which limits, usage and costs are counted.
"""

import math
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal

import msgspec

from shared.bus.ports import Bus
from shared.bus.topology import KEYS
from shared.errors import Conflict, Rejected
from shared.ids import uuid7
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.keys import KeyRecord, digest
from shared.units import DAY_S

MAX_ATTEMPTS = 10
"""Against others who change the same key."""
MAX_OVERLAP_S = 90 * DAY_S
"""A secret that is replaced for longer is not being replaced."""
HINT_LENGTH = 4
_Stored = dict[str, tuple[KeyRecord, int]]
"""The records of one key and their revisions, by digest."""


async def create_key(
    bus: Bus,
    *,
    name: str,
    models: tuple[str, ...] | None = None,
    expires_at: float | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    concurrency: int | None = None,
    monthly_tokens: int | None = None,
    wakes_per_hour: int | None = None,
    wake_cost_per_day: Decimal | None = None,
    owner: str | None = None,
    made_by: str | None = None,
) -> tuple[str, str]:
    """Create a key and return its id and secret. Limits are positive; None is unlimited."""
    now = time.time()
    record = KeyRecord(
        id=uuid7(now),
        name=name,
        created_at=now,
        models=models,
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        monthly_tokens=monthly_tokens,
        wakes_per_hour=wakes_per_hour,
        wake_cost_per_day=wake_cost_per_day,
        owner=owner,
        made_by=made_by,
    )
    return record.id, await _store_secret(bus, record)


async def roll_key(
    bus: Bus, key_id: str, *, overlap_s: float, now: float, limits: Mapping[str, int | Decimal | None] | None = None
) -> str:
    """Give a key a new secret and return it. Its earlier ones end after the overlap, or when they would have anyway.

    `limits`: those of the new secret that are not as before, by field.

    If this fails halfway, the earlier secrets are still valid; repeat it. Of several at once, the last one counts.

    Raises:
        Rejected: no such key, or it has ended, or was rolled meanwhile; or the overlap is too long.
    """
    if not 0 <= overlap_s <= MAX_OVERLAP_S:
        raise Rejected(f"the overlap must be 0 to {MAX_OVERLAP_S / DAY_S:g} days")
    current = _current((await _read(bus, key_id)).values(), key_id, now)
    secret = await _store_secret(bus, msgspec.structs.replace(current, **(limits or {})))
    for _ in range(MAX_ATTEMPTS):
        records = await _read(bus, key_id)
        if any(record.revoked_at is not None for record, _ in records.values()):
            await revoke_key(bus, key_id, now=now)  # its revocation did not see the new secret
            raise Rejected(f"key {key_id} was revoked meanwhile: create a new one")
        newest = _newest(records)
        changes = {}
        for name, (record, revision) in records.items():
            end = min(now + overlap_s, math.inf if record.expires_at is None else record.expires_at)
            ended = msgspec.structs.replace(record, expires_at=end, replaced_at=record.replaced_at or now)
            if name != newest and ended != record:
                changes[name] = ended, revision
        if not changes:
            if newest != digest(secret):
                raise Rejected(f"key {key_id} was rolled meanwhile by somebody else, whose secret counts")
            return secret
        await _update(bus, changes)
    raise Conflict(f"key {key_id} changed during each of {MAX_ATTEMPTS} attempts: repeat it")


def _newest(records: _Stored) -> str | None:
    """Return the digest of the secret that was stored last among those that no other replaced."""
    current = {name: revision for name, (record, revision) in records.items() if record.replaced_at is None}
    return max(current, key=current.__getitem__, default=None)


async def revoke_key(bus: Bus, key_id: str, *, now: float, by: str | None = None) -> bool:
    """Revoke all secrets of a key. `by`: who does, an identity. Returns False if no key has the id."""
    for _ in range(MAX_ATTEMPTS):
        records = await _read(bus, key_id)
        alive = {name: stored for name, stored in records.items() if stored[0].revoked_at is None}
        if not alive:
            return bool(records)
        await _update(
            bus,
            {
                name: (msgspec.structs.replace(record, revoked_at=now, revoked_by=by), revision)
                for name, (record, revision) in alive.items()
            },
        )
    raise Conflict(f"key {key_id} changed during each of {MAX_ATTEMPTS} attempts: repeat it")


def _current(records: Iterable[tuple[KeyRecord, int]], key_id: str, now: float) -> KeyRecord:
    """Return the record of the key's newest secret. Raises `Rejected` if there is none that is usable."""
    known = [record for record, _ in records]
    current = next((record for record in known if record.replaced_at is None), None)
    if not known:
        raise Rejected(unknown_key_message(key_id))
    if any(record.revoked_at is not None for record in known):
        raise Rejected(f"key {key_id} is revoked: create a new one")
    if current is None:
        raise Rejected(f"the bus lacks the newest secret of key {key_id}: run `spotinference setup`")
    if not current.usable(now):
        raise Rejected(f"key {key_id} has expired: create a new one")
    return current


def unknown_key_message(key_id: str) -> str:
    """Return the error for an id that no key has."""
    return f"no key has the id {key_id!r}: `spotinference keys list` shows the ids"


async def _store_secret(bus: Bus, record: KeyRecord) -> str:
    secret = f"sk-{secrets.token_urlsafe(32)}"
    await bus.create(KEYS, digest(secret), encode(msgspec.structs.replace(record, hint=secret[-HINT_LENGTH:])))
    return secret


async def _read(bus: Bus, key_id: str) -> _Stored:
    records: _Stored = {}
    for name, entry in (await bus.entries(KEYS)).items():
        try:
            record = decode(entry.value, KeyRecord)
        except Unreadable:
            continue  # those who watch the bucket report it
        if record.id == key_id:
            records[name] = record, entry.revision
    return records


async def _update(bus: Bus, changes: _Stored) -> None:
    """Write what nobody else has changed; the caller reads again and decides about the rest."""
    for name, (record, revision) in changes.items():
        with suppress(Conflict):
            await bus.update(KEYS, name, encode(record), revision=revision)
