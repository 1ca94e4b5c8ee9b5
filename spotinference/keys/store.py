"""Reads API keys from their bucket, for commands."""

from shared.bus.ports import Bus
from shared.bus.topology import KEYS
from shared.key_names import names_by_key_id
from shared.key_records import SavedKey
from shared.messages.keys import KeyRecord
from spotinference.bucket_reader import read_bucket


async def find_key_ids(bus: Bus, key: str) -> list[str]:
    """Return `key` itself if it is the id of a key, else the ids of the keys of that name, including revoked ones."""
    records = [record for _, record, _ in await read_keys(bus)]
    if any(record.id == key for record in records):
        return [key]
    return sorted({record.id for record in records if record.name == key})


async def read_key_names(bus: Bus) -> dict[str, str]:
    """Return the names of all keys, by id."""
    return names_by_key_id(record for _, record, _ in await read_keys(bus))


async def read_keys(bus: Bus) -> list[tuple[str, KeyRecord, int]]:
    return [(key, record, revision) for key, (record, revision) in (await read_bucket(bus, KEYS, KeyRecord)).items()]


async def save_keys(bus: Bus) -> tuple[SavedKey, ...]:
    return tuple(SavedKey(digest=digest, record=record) for digest, record, _ in await read_keys(bus))
