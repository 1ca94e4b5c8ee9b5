"""API keys in their bucket. Only the SHA-256 of a key is stored."""

import secrets
import time
from decimal import Decimal

from shared.bus.ports import Bus
from shared.bus.topology import KEYS
from shared.ids import uuid7
from shared.key_names import names_by_key_id
from shared.key_records import SavedKey
from shared.messages.codec import encode
from shared.messages.keys import KeyRecord, digest
from spotinference.bucket_reader import read_bucket


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
) -> tuple[str, str]:
    """Create a key and return its id and secret. Limits are positive; None is unlimited."""
    now = time.time()
    secret = f"sk-{secrets.token_urlsafe(32)}"
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
    )
    await bus.create(KEYS, digest(secret), encode(record))
    return record.id, secret


def unknown_key_message(key_id: str) -> str:
    """Return the error for an id that no key has."""
    return f"no key has the id {key_id!r}: `spotinference keys list` shows the ids"


async def find_key_ids(bus: Bus, key: str) -> list[str]:
    """Return `key` itself if it is the id of a key, else the ids of the keys of that name, including revoked ones."""
    records = [record for _, record, _ in await read_keys(bus)]
    if any(record.id == key for record in records):
        return [key]
    return sorted(record.id for record in records if record.name == key)


async def read_key_names(bus: Bus) -> dict[str, str]:
    """Return the names of all keys, by id."""
    return names_by_key_id(record for _, record, _ in await read_keys(bus))


async def read_keys(bus: Bus) -> list[tuple[str, KeyRecord, int]]:
    return [(key, record, revision) for key, (record, revision) in (await read_bucket(bus, KEYS, KeyRecord)).items()]


async def save_keys(bus: Bus) -> tuple[SavedKey, ...]:
    return tuple(SavedKey(digest=digest, record=record) for digest, record, _ in await read_keys(bus))
