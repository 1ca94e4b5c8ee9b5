"""Fingerprints of days: short texts that change whenever a change in the database may change the day's report."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.payable_store import Bills, bills_in
from services.billing.adapters.tables import accruals, cost_rows, payables, snapshots, transitions
from services.billing.core.reconciliation import period_of
from services.billing.core.utc_time import Window, day_window
from shared.database import read_transaction
from shared.units import DAY_MS, HOUR_MS

Days = frozenset[tuple[int, int]]
"""First and last days, by number, of charges."""


@dataclass(frozen=True)
class _CountedBills:
    """The bills that count."""

    version: tuple[int | None, ...]
    """Changes whenever a snapshot or a payable amount is added, or a snapshot no longer counts."""
    days: Mapping[int, Days] = field(default_factory=dict)
    """By snapshot that counts."""
    bills: Bills = field(default_factory=lambda: Bills((), ()))
    marks: dict[int, str] = field(default_factory=dict)
    """The fingerprints computed so far, by the number of the day."""

    def mark(self, number: int) -> str:
        """Return how the bills stand that a day waits for, and the snapshots with charges in their billing periods.

        Not of the day alone: a settled day also depends on which machines are on the bill of its period.
        """
        if number not in self.marks:
            day = Window(number * DAY_MS, (number + 1) * DAY_MS)
            bills = self.bills.concerning(day, self._snapshots_touching(day))
            periods = [period for bill in bills if (period := period_of(bill)).overlap(day).length]
            span = Window(
                min((p.start for p in periods), default=day.start), max((p.end for p in periods), default=day.end)
            )
            stand = [(s.source, s.issuer, s.invoice_id, s.account, s.currency, s.period_end, s.state) for s in bills]
            self.marks[number] = f"{sorted(self._snapshots_touching(span))}{stand}"
        return self.marks[number]

    def _snapshots_touching(self, window: Window) -> frozenset[int]:
        """The snapshots with charges on the window's days."""
        start, end = window.start // DAY_MS, (window.end - 1) // DAY_MS
        return frozenset(
            snapshot
            for snapshot, days in self.days.items()
            if any(first <= end and last >= start for first, last in days)
        )


class SqlDayFingerprints:
    """Computes fingerprints from the database. Raises what `DATABASE_ERRORS` lists while it is down.

    A snapshot changes the fingerprints of the days in the billing periods that its charges touch, and of the days that
    wait for its bills.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._billed = _CountedBills(version=())

    async def compute(self, days: Sequence[str]) -> dict[str, str]:
        """Return each day's fingerprint."""
        numbers = {day: day_window(day).start // DAY_MS for day in days}
        async with read_transaction(self._engine) as connection:
            billed = self._billed = await _billed(connection, self._billed)
            newest_by_day = await _newest_transitions(connection)
            running = await _running(connection, min(numbers.values()), max(numbers.values()))
        # In a thread: there may be thousands of bills.
        of_bills = await asyncio.to_thread(lambda: {number: billed.mark(number) for number in numbers.values()})
        fingerprints = {}
        for day, number in numbers.items():
            journal = max((newest for at, newest in newest_by_day.items() if at <= number), default=None)
            fingerprints[day] = "/".join(map(str, (of_bills[number], journal, *running.get(number, ()))))
        return fingerprints


async def _billed(connection: AsyncConnection, known: _CountedBills) -> _CountedBills:
    """Read what counts now. A snapshot's charges never change, so those of known snapshots are not read again."""
    s = snapshots.c
    counting = select(func.max(s.id), func.count(), func.sum(s.id)).where(s.active)
    newest_payable = await connection.scalar(select(func.max(payables.c.id)))
    version = (*(await connection.execute(counting)).one(), newest_payable)
    if version == known.version:
        return known
    active = set(await connection.scalars(select(s.id).where(s.active)))
    days = await _days_of(connection, active - set(known.days))
    days |= {snapshot: known.days[snapshot] for snapshot in active & set(known.days)}
    return _CountedBills(version, days, await bills_in(connection))


async def _days_of(connection: AsyncConnection, ids: Collection[int]) -> dict[int, Days]:
    c = cost_rows.c
    first, last = (c.charge_start // DAY_MS).label("first"), ((c.charge_end - 1) // DAY_MS).label("last")
    query = select(c.snapshot_id, first, last).where(c.snapshot_id.in_(ids)).group_by(c.snapshot_id, "first", "last")
    days_by_snapshot: dict[int, set[tuple[int, int]]] = {snapshot: set() for snapshot in ids}
    for row in await connection.execute(query):
        # A charge without length has its day too.
        days_by_snapshot[row.snapshot_id].add((row.first, max(row.first, row.last)))
    return {snapshot: frozenset(days) for snapshot, days in days_by_snapshot.items()}


async def _newest_transitions(connection: AsyncConnection) -> dict[int, int]:
    """Return the id of the newest recorded transition by the number of its day.

    The first hour of a day also counts as the day before: a later state may decide what a state was, as with a wake.
    """
    t = transitions.c
    day = ((t.at - HOUR_MS) // DAY_MS).label("number")
    query = select(day, func.max(t.id).label("newest")).group_by("number")
    return {row.number: row.newest for row in await connection.execute(query)}


async def _running(connection: AsyncConnection, first: int, last: int) -> dict[int, tuple[int, ...]]:
    """Return by the number of the day how many hours have a running bill, and the sum of the times they reach."""
    a = accruals.c
    day = (a.hour // DAY_MS).label("number")
    query = select(day, func.count(), func.sum(a.through)).where(a.hour >= first * DAY_MS, a.hour < (last + 1) * DAY_MS)
    return {row[0]: (row[1], int(row[2])) for row in await connection.execute(query.group_by("number"))}
