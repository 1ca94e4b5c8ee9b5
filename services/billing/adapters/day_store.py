"""Reads what is known about a day, all at one moment: charges, machine states and running bills."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.accrual_store import accrued_in
from services.billing.adapters.fleet_store import kept_fleets
from services.billing.adapters.payable_store import counts, standings_of
from services.billing.adapters.tables import cost_rows, snapshot_files, snapshots, transitions
from services.billing.core.allocation.accrual import Accrual
from services.billing.core.allocation.charge_groups import MACHINE_CATEGORIES, is_early
from services.billing.core.allocation.fleet_history import KeptFleet
from services.billing.core.allocation.machine_time import StateChange, order_changes
from services.billing.core.cost_row import CostRow
from services.billing.core.day_records import DayRecords, File
from services.billing.core.reports.bill_coverage import LastCharge
from services.billing.core.reports.cost_lines import ChargeOrigin
from services.billing.core.utc_time import Window
from shared.database import read_transaction
from shared.units import to_millis

BATCH = 1000
"""Charges read at once: a few milliseconds of work."""
_USED = (
    "charge_start",
    "charge_end",
    "billed",
    "effective",
    "category",
    "service_category",
    "resource_id",
    "tags",
    "consumed_unit",
    "currency",
    "per_usd",
    "parent_id",
    "service_name",
    "rows",
)
"""The fields of a charge that decide or explain a figure, and the quantity, which is kept as text."""


class SqlDayStore:
    """What the database knows about a day. Raises what `DATABASE_ERRORS` lists while it is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, day: Window) -> DayRecords:
        async with read_transaction(self._engine) as connection:
            rows, snapshot_ids = await _charges(connection, day)
            used = set(snapshot_ids)
            files, origin_of = await _origin(connection, used)
            accruals: dict[str, list[Accrual]] = {}
            for accrual in await accrued_in(connection, day):
                accruals.setdefault(accrual.machine, []).append(accrual)
            return DayRecords(
                rows=rows,
                origins=[origin_of[snapshot_id] for snapshot_id in snapshot_ids],
                files=files,
                changes=await _changes(connection, day),
                invoices=await standings_of(connection, day, used),
                accruals=accruals,
                fleets=await kept_fleets(connection, day),
            )

    async def fleets(self, window: Window) -> list[KeptFleet]:
        """Return what the configuration said in the window, in order."""
        async with read_transaction(self._engine) as connection:
            return await kept_fleets(connection, window)

    async def reaches(self, window: Window) -> list[LastCharge]:
        """Return how far the charges for use that touch the window reach, by source and resource."""
        c = cost_rows.c
        named = [name for name in MACHINE_CATEGORIES if name is not None]
        query = (
            select(snapshots.c.source, c.resource_id, func.max(c.charge_end))
            .join(snapshots, snapshots.c.id == c.snapshot_id)
            .where(
                counts(),
                c.category == "Usage",
                or_(c.service_category.is_(None), c.service_category.in_(named)),
                c.resource_id.is_not(None),
                c.charge_end > window.start,
                c.charge_start < window.end,
            )
            .group_by(snapshots.c.source, c.resource_id)
        )
        async with read_transaction(self._engine) as connection:
            return [LastCharge(*row) for row in await connection.execute(query)]


async def _charges(connection: AsyncConnection, day: Window) -> tuple[list[CostRow], list[int]]:
    """Return the day's charges, and the snapshot of each."""
    rows: list[CostRow] = []
    origins: list[int] = []
    came = await _arrivals(connection)
    async with connection.stream(_active(day)) as result:
        async for batch in result.partitions(BATCH):  # other tasks run in between
            for snapshot_id, quantity, *values in batch:
                exact = None if quantity is None else Decimal(quantity)
                row = CostRow(consumed_quantity=exact, **dict(zip(_USED, values, strict=True)))
                at = came[snapshot_id]
                rows.append(replace(row, arrived=at) if is_early(row, at) else row)
                origins.append(snapshot_id)
    return rows, origins


async def _arrivals(connection: AsyncConnection) -> dict[int, int]:
    """Return when the files of each snapshot that counts first arrived. Reading them again adds nothing newer."""
    first = snapshots.alias()
    query = (
        select(snapshots.c.id, func.min(first.c.imported_at))
        .join(first, and_(first.c.source == snapshots.c.source, first.c.sha256 == snapshots.c.sha256))
        .where(snapshots.c.active)
        .group_by(snapshots.c.id)
    )
    return {snapshot_id: to_millis(at) for snapshot_id, at in await connection.execute(query)}


async def _origin(connection: AsyncConnection, used: set[int]) -> tuple[list[File], dict[int, ChargeOrigin]]:
    """Return the snapshots' files, and where the charges of each snapshot are from."""
    query = (
        select(snapshots, snapshot_files.c.file_name, snapshot_files.c.sha256.label("file_sha256"))
        .join(snapshot_files, snapshots.c.id == snapshot_files.c.snapshot_id)
        .where(snapshots.c.id.in_(used))
    )
    file_rows = (await connection.execute(query)).all()
    files = {File(one.source, one.file_name, one.file_sha256, one.rows) for one in file_rows}
    names: dict[int, list[str]] = {}
    for one in sorted(file_rows, key=lambda one: one.file_name):
        names.setdefault(one.id, []).append(one.file_name)
    return sorted(files), {one.id: ChargeOrigin(one.source, _few(names[one.id]), one.sha256) for one in file_rows}


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _active(day: Window) -> Select[tuple[Any, ...]]:
    """Select the charges that count and fall on the day."""
    return (
        select(cost_rows.c.snapshot_id, cost_rows.c.consumed_quantity, *(cost_rows.c[name] for name in _USED))
        .join(snapshots, snapshots.c.id == cost_rows.c.snapshot_id)
        .where(
            counts(),
            cost_rows.c.charge_start < day.end,
            # A charge without length belongs to the day on which it falls.
            or_(
                cost_rows.c.charge_end > day.start,
                and_(cost_rows.c.charge_end == day.start, cost_rows.c.charge_start == day.start),
            ),
        )
    )


async def _changes(connection: AsyncConnection, day: Window) -> dict[str, list[StateChange]]:
    changes_by_machine: dict[str, list[StateChange]] = {}
    for change in await connection.execute(_around(day)):
        state_change = StateChange(change.at, change.to_state, change.tier, change.key_id, change.from_state)
        changes_by_machine.setdefault(change.machine, []).append(state_change)
    return {machine: order_changes(changes) for machine, changes in changes_by_machine.items()}


def _around(day: Window) -> Select[tuple[object, ...]]:
    """Select each machine's transitions from the last one before the day to the first after it.

    Both the order of their times and the order in which they were recorded count.
    """
    t = transitions.c
    bounds = (
        select(
            t.machine,
            func.max(case((t.at <= day.start, t.at))).label("since"),
            func.min(case((t.at >= day.end, t.at))).label("until"),
            func.max(case((t.at <= day.start, t.id))).label("first"),
            func.max(case((t.at < day.end, t.id))).label("last"),
        )
        .group_by(t.machine)
        .subquery()
    ).c
    by_time = and_(t.at >= func.coalesce(bounds.since, day.start), t.at <= func.coalesce(bounds.until, day.end))
    in_recorded_order = and_(t.id >= func.coalesce(bounds.first, 0), t.id <= bounds.last)
    spans = (
        select(t.machine, func.min(t.id).label("first"), func.max(t.id).label("last"))
        .where(t.machine == bounds.machine, or_(by_time, in_recorded_order))
        .group_by(t.machine)
        .subquery()
    ).c
    return (
        select(transitions)
        .where(t.machine == spans.machine, t.id >= spans.first, t.id <= spans.last)
        .order_by(t.machine, t.id)
    )
