"""Warnings about a delivery that is about to count, from its sums beside those of its source so far."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import Row, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.billing.adapters.tables import snapshot_invoices, snapshots
from services.billing.core.cost_row import SnapshotKey
from services.billing.core.invoice_files.anomalies import (
    PreviousSnapshot,
    SnapshotStatistics,
    find_anomalies,
    usual_day_cost,
)
from services.billing.core.invoice_files.delivery import Snapshot
from services.billing.core.money import to_units, to_usd

log = structlog.get_logger()

USUAL_SNAPSHOTS = 31
"""A month of daily snapshots; the usual cost of a day is judged by them."""


async def warnings_of(
    connection: AsyncConnection,
    source: str,
    parts: Sequence[Snapshot],
    facts: Mapping[tuple[SnapshotKey, str], SnapshotStatistics],
    replaced: Sequence[Row[Any]],
) -> dict[str, tuple[str, ...]]:
    """Return and log by currency what looks wrong about the snapshots of one key that replace `replaced`."""
    sums = await billed_of(connection, [snapshot.id for snapshot in replaced])
    warnings_by_currency: dict[str, tuple[str, ...]] = {}
    for part in parts:
        known = facts.get((part.key, part.currency))
        if known is None:
            continue
        same = [snapshot for snapshot in replaced if snapshot.currency == part.currency]
        billed = sum((sums.get(snapshot.id, Decimal(0)) for snapshot in same), Decimal(0))
        warnings_by_currency[part.currency] = find_anomalies(
            known,
            rows=part.rows,
            billed=part.billed,
            currency=part.currency,
            usual=usual_day_cost(known, await _usual_days(connection, source, part.currency)),
            previous=PreviousSnapshot(sum(snapshot.rows for snapshot in same), billed) if same else None,
        )
        if warnings_by_currency[part.currency]:
            where = {"source": source, "issuer": part.key.issuer, "account": part.key.account}
            log.warning("invoice_suspicious", **where, warnings=warnings_by_currency[part.currency])
    return warnings_by_currency


async def _usual_days(connection: AsyncConnection, source: str, currency: str) -> list[Decimal]:
    """Return the usual cost of a day in each of the source's last snapshots, where it is known."""
    mine = and_(snapshots.c.source == source, snapshots.c.currency == currency, snapshots.c.usual_day.is_not(None))
    newest = select(snapshots.c.usual_day).where(mine).order_by(snapshots.c.id.desc()).limit(USUAL_SNAPSHOTS)
    return [amount for (amount,) in await connection.execute(newest) if amount]


async def billed_of(connection: AsyncConnection, ids: Sequence[int] | None = None) -> dict[int, Decimal]:
    """Return the sums of snapshots, in the currency of each; of all where no `ids` are named."""
    sums: dict[int, int] = {}
    query = select(snapshot_invoices)
    if ids is not None:
        query = query.where(snapshot_invoices.c.snapshot_id.in_(ids))
    for part in await connection.execute(query):
        sums[part.snapshot_id] = sums.get(part.snapshot_id, 0) + to_units(part.billed)
    return {snapshot_id: to_usd(amount) for snapshot_id, amount in sums.items()}
