"""The copy of the API keys' records in the ledger's database, from which a bus that lost some gets them back."""

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.tables import key_records
from shared.database import dialect_insert, read_transaction
from shared.key_records import SavedKey, merge_copies
from shared.messages.codec import decode, encode
from shared.messages.keys import KeyRecord

ROWS_PER_TRANSACTION = 1000


class SqlKeyStore:
    """The port `KeyStore` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def merge(self, keys: Collection[SavedKey]) -> None:
        """Add keys to the copy. What ended in it stays so."""
        insert = self._insert(key_records).on_conflict_do_nothing()
        c = key_records.c
        change = update(key_records).where(c.sha256 == bindparam("digest"))
        change = change.values(record=bindparam("new_record"), revoked_at=bindparam("new_revoked_at"))
        ordered = sorted(keys, key=lambda key: key.digest)
        for start in range(0, len(ordered), ROWS_PER_TRANSACTION):
            chunk = ordered[start : start + ROWS_PER_TRANSACTION]
            async with self._engine.begin() as connection:
                await connection.execute(insert, [_row(key.digest, key.record) for key in chunk])
                stored = await _read(connection, [key.digest for key in chunk], lock=True)
                merged = merge_copies(stored, chunk)
                changed = [
                    {"digest": s.digest, "new_record": encode(record), "new_revoked_at": record.revoked_at}
                    for s in stored
                    if (record := merged[s.digest]) != s.record
                ]
                if changed:
                    await connection.execute(change, changed)

    async def read(self) -> list[SavedKey]:
        """Return the whole copy."""
        async with read_transaction(self._engine) as connection:
            return await _read(connection)


async def _read(
    connection: AsyncConnection, digests: Iterable[str] | None = None, *, lock: bool = False
) -> list[SavedKey]:
    query = select(key_records.c.sha256, key_records.c.record).order_by(key_records.c.sha256)
    if digests is not None:
        query = query.where(key_records.c.sha256.in_(list(digests)))
    if lock:
        query = query.with_for_update()
    rows = await connection.execute(query)
    return [SavedKey(digest=row.sha256, record=decode(row.record, KeyRecord)) for row in rows]


def _row(digest: str, record: KeyRecord) -> dict[str, Any]:
    return {
        "sha256": digest,
        "key_id": record.id,
        "record": encode(record),
        "revoked_at": record.revoked_at,
    }
