"""The books in their database: snapshots of charges, the machines' transitions, revisions of reports.

One writer: the leading billing process. Everything that belongs together is one transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from sqlalchemy import and_, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.tables import cost_rows, snapshot_files, snapshots, transitions
from services.billing.core.days import millis, written
from services.billing.core.focus import CostRow, SnapshotKey
from services.billing.core.money import units, usd
from shared.messages.invoices import SnapshotSummary
from shared.messages.waker import Transition

INSERT_ROWS = 1000
"""In one statement's list: bounds the memory of a large import."""
_ROW_FIELDS = tuple(field.name for field in fields(CostRow))


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One file's content under its source's name."""

    source: str
    file_name: str
    sha256: str
    snapshots: Mapping[SnapshotKey, tuple[CostRow, ...]]
    appends: bool
    """Adds to what the source delivered before, instead of replacing it."""


class Taken(Exception):
    """Another source has delivered these charges: counting both would count them twice."""


class Books:
    """Raises what `shared.database.AWAY` lists when the database does not do its part."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def deliver(self, delivery: Delivery, now: float) -> tuple[SnapshotSummary, ...]:
        """Make the delivery count, all of it or nothing; `Taken` names the other source. The same again is a no-op."""
        async with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                # A leader that was paused may still be at it beside the next one; SQLite has one writer anyway.
                await connection.exec_driver_sql("LOCK TABLE snapshots IN SHARE ROW EXCLUSIVE MODE")
            return tuple(
                [await _activate(connection, delivery, key, rows, now) for key, rows in delivery.snapshots.items()]
            )

    async def record(self, told: Sequence[Transition]) -> None:
        """Keep what is new among them."""
        if not told:
            return
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        values = [
            {
                "machine": t.machine,
                "at": millis(t.at),
                "to_state": t.to_state,
                "from_state": t.from_state,
                "tier": t.tier,
                "reason": t.reason,
                "wake_id": t.wake_id,
                "key_id": t.key_id,
            }
            for t in told
        ]
        async with self._engine.begin() as connection:
            await connection.execute(dialect.insert(transitions).on_conflict_do_nothing(), values)


async def _activate(
    connection: AsyncConnection, delivery: Delivery, key: SnapshotKey, rows: Sequence[CostRow], now: float
) -> SnapshotSummary:
    same_key = and_(
        snapshots.c.active,
        snapshots.c.issuer == key.issuer,
        snapshots.c.account == key.account,
        snapshots.c.period_start == key.period_start,
        snapshots.c.period_end == key.period_end,
    )
    standing = (await connection.execute(select(snapshots).where(same_key))).all()
    others = sorted({snapshot.source for snapshot in standing} - {delivery.source})
    if others:
        raise Taken(
            f"{key.issuer}, account {key.account}, {written(key.period_start)} to {written(key.period_end)} "
            f"is delivered by source {others[0]!r}: import it under that name, or leave this file out"
        )
    known = any(snapshot.sha256 == delivery.sha256 for snapshot in standing)
    replaces = bool(standing) and not delivery.appends and not known
    if replaces:
        await connection.execute(update(snapshots).where(same_key).values(active=False))
    if not known:
        await _insert(connection, delivery, key, rows, now)
    return SnapshotSummary(
        issuer=key.issuer,
        account=key.account,
        period_start=written(key.period_start),
        period_end=written(key.period_end),
        rows=len(rows),
        billed=usd(sum(units(row.billed) for row in rows)),
        currency="USD",
        replaced=replaces,
    )


async def _insert(
    connection: AsyncConnection, delivery: Delivery, key: SnapshotKey, rows: Sequence[CostRow], now: float
) -> None:
    origin = {"source": delivery.source, "sha256": delivery.sha256, "rows": len(rows), "currency": rows[0].currency}
    made = await connection.execute(
        insert(snapshots).values(**origin, **asdict(key), active=True, imported_at=now).returning(snapshots.c.id)
    )
    snapshot_id = made.scalar_one()
    file = {"snapshot_id": snapshot_id, "sha256": delivery.sha256, "file_name": delivery.file_name}
    await connection.execute(insert(snapshot_files), [file])
    for first in range(0, len(rows), INSERT_ROWS):
        await connection.execute(
            insert(cost_rows), [_stored(row, snapshot_id) for row in rows[first : first + INSERT_ROWS]]
        )


def _stored(row: CostRow, snapshot_id: int) -> dict[str, object]:
    quantity = None if row.consumed_quantity is None else str(row.consumed_quantity)
    return {name: getattr(row, name) for name in _ROW_FIELDS} | {
        "consumed_quantity": quantity,
        "snapshot_id": snapshot_id,
    }
