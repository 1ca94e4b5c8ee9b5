"""What the ledger's database has for one day's audit, all as of one moment; and the stored audits."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.audit_tables import audits, engine_days, engine_faults, engine_notes
from services.meter.adapters.machine_usage import read_moved_requests, read_usage, within_day
from services.meter.adapters.tables import conflicts, events, horizon, quarantine, rollups, runs, unknowns
from services.meter.core.day import Day
from services.meter.core.day_audit import LedgerDay
from services.meter.core.engine_readings import EngineDay
from services.meter.core.fleet_event import FleetEvent, FleetEventKind
from services.meter.core.machine_audit import SKEW_SECONDS, MachineDay
from shared.database import dialect_insert, read_transaction
from shared.messages.codec import decode, encode
from shared.messages.meter import TokenSums
from shared.messages.meter_audit import Audit, SourceAudit

ORDER_SECONDS = 300.0
"""How far a source's number may be from its place in time, should its clock be adjusted."""

_NOT_RECOUNTED = quarantine.c.recounted_at.is_(None)
_SUMS = TokenSums.__struct_fields__
_DIMENSIONS = ("model", "tier", "machine", "key_id", "outcome")


class SqlAuditStore:
    """The port `AuditStore` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def load_day(self, day: Day) -> LedgerDay:
        async with read_transaction(self._engine) as connection:
            before = (await connection.execute(select(horizon.c.before))).scalar_one()
            kept = before <= day.start
            summed = await _summed(connection, rollups, within_day(day, rollups.c.minute, 60))
            counted = await _summed(connection, events, within_day(day, events.c.completed_at)) if kept else {}
            return LedgerDay(
                events_kept=kept,
                events=sum(int(sums[0]) for sums in summed.values()),
                tokens=sum(int(sums[1]) + int(sums[3]) for sums in summed.values()),
                machines=await _machines(connection, day) if kept else (),
                sources=await _sources(connection, day) if kept else (),
                rollups_equal=summed == counted,
                conflicts=await _count(connection, within_day(day, conflicts.c.received_at)),
                quarantined=await _count(connection, and_(within_day(day, quarantine.c.at), _NOT_RECOUNTED)),
                unknown_names=await _count(
                    connection, and_(unknowns.c.last_at >= day.start, unknowns.c.first_at < day.end)
                ),
            )

    async def load_audit(self, day: str) -> Audit | None:
        """Return the day's latest audit."""
        async with read_transaction(self._engine) as connection:
            payload = (await connection.execute(select(audits.c.payload).where(audits.c.day == day))).scalar()
        return None if payload is None else decode(payload, Audit)

    async def final_event_counts(self, since: str) -> dict[str, int]:
        """Return the days from `since` on whose latest audit is final, each with the events that it counted."""
        query = select(audits.c.day, audits.c.events).where(audits.c.day >= since, audits.c.final)
        async with read_transaction(self._engine) as connection:
            return {row.day: row.events for row in await connection.execute(query)}

    async def count_events(self, day: Day) -> int:
        """Count from the sums, which is cheap."""
        query = select(func.coalesce(func.sum(rollups.c.requests), 0)).where(within_day(day, rollups.c.minute, 60))
        async with read_transaction(self._engine) as connection:
            return int((await connection.execute(query)).scalar_one())

    async def save_audit(self, audit: Audit) -> None:
        insert = self._insert(audits).values(
            day=audit.day, at=audit.at, final=audit.final, events=audit.events, payload=encode(audit)
        )
        rest = {name: insert.excluded[name] for name in ("at", "final", "events", "payload")}
        async with self._engine.begin() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=["day"], set_=rest))


async def _summed(connection: AsyncConnection, table: Any, where: ColumnElement[bool]) -> dict[tuple[str, ...], Any]:
    """Return requests and tokens by all dimensions; events are counted, rollups have their number."""
    dimensions = [table.c[name] for name in _DIMENSIONS]
    names = [name for name in _SUMS if name != "requests"]
    requests = func.sum(table.c.requests) if "requests" in table.c else func.count()
    query = select(*dimensions, requests, *(func.sum(table.c[name]) for name in names)).where(where)
    rows = await connection.execute(query.group_by(*dimensions))
    return {tuple(row[: len(dimensions)]): tuple(map(int, row[len(dimensions) :])) for row in rows}


async def _count(connection: AsyncConnection, where: ColumnElement[bool]) -> int:
    return int((await connection.execute(select(func.count()).where(where))).scalar_one())


async def _machines(connection: AsyncConnection, day: Day) -> tuple[MachineDay, ...]:
    days: defaultdict[str, list[EngineDay]] = defaultdict(list)
    for row in await connection.execute(select(engine_days).where(engine_days.c.day == day.name)):
        days[row.machine].append(EngineDay(**row._mapping))  # noqa: SLF001 - SQLAlchemy's public name for it
    earliest = min([day.start, *(d.since for group in days.values() for d in group)])
    usage = await read_usage(connection, day, earliest)
    fleet_events = await _events(connection, day, earliest)
    query = select(engine_faults).where(engine_faults.c.day == day.name)
    errors = {row.machine: row.fault for row in await connection.execute(query)}
    moved = await read_moved_requests(connection, day, earliest)
    return tuple(
        MachineDay(
            machine=name,
            days=days[name],
            usage=usage[name],
            events=fleet_events[name],
            **moved.get(name, {}),
            scrape_error=errors.get(name),
        )
        for name in sorted({*days, *usage})
    )


async def _events(connection: AsyncConnection, day: Day, earliest: float) -> defaultdict[str, list[FleetEvent]]:
    n = engine_notes.c
    query = select(engine_notes).where(n.at >= min(earliest, day.start), n.at < day.end)
    lost = await _lost(connection, day)
    fleet_events: defaultdict[str, list[FleetEvent]] = defaultdict(list)
    for row in await connection.execute(query):
        fleet_events[row.machine].append(
            FleetEvent(
                machine=row.machine,
                at=row.at,
                kind=FleetEventKind(row.kind),
                amount=row.amount,
                since=row.since,
                lost=lost.get(row.id, 0),
            )
        )
    return fleet_events


async def _lost(connection: AsyncConnection, day: Day) -> dict[str, int]:
    """Return, by the id of a reset, the tokens that the ledger has between the readings around it."""
    e, n = events.c, engine_notes.c
    query = (
        select(n.id, func.sum(e.prompt_tokens + e.completion_tokens))
        .select_from(engine_notes)
        .join(
            events,
            and_(
                e.machine == n.machine, e.completed_at > n.since - SKEW_SECONDS, e.completed_at <= n.at + SKEW_SECONDS
            ),
        )
        .where(n.kind == FleetEventKind.RESET, within_day(day, n.at))
        .group_by(n.id)
    )
    return {row[0]: int(row[1]) for row in await connection.execute(query)}


async def _sources(connection: AsyncConnection, day: Day) -> tuple[SourceAudit, ...]:
    e, q = events.c, quarantine.c
    query = (
        select(e.source, func.min(e.source_seq), func.max(e.source_seq), func.count())
        .where(within_day(day, e.completed_at))
        .group_by(e.source)
        .order_by(e.source)
    )
    spans = [tuple(row) for row in await connection.execute(query)]
    marks = await _marks(connection, [source for source, *_ in spans])
    sources = []
    for source, first, last, count in spans:
        span = last - first + 1
        kept = (
            count if count == span else await _count(connection, and_(_around(day), *_numbers(e, source, first, last)))
        )
        quarantined = 0
        if kept != span:
            distinct = select(func.count(func.distinct(q.source_seq))).where(
                _NOT_RECOUNTED, *_numbers(q, source, first, last)
            )
            quarantined = int((await connection.execute(distinct)).scalar_one())
        sources.append(
            SourceAudit(
                source=source, first=first, last=last, kept=kept, quarantined=quarantined, mark=marks.get(source, 0)
            )
        )
    return tuple(sources)


def _numbers(columns: Any, source: str, first: int, last: int) -> tuple[ColumnElement[bool], ...]:
    return columns.source == source, columns.source_seq.between(first, last)


def _around(day: Day) -> ColumnElement[bool]:
    """Return the condition for the day's events and those that an adjusted clock moved out of it."""
    at = events.c.completed_at
    return and_(at >= day.start - ORDER_SECONDS, at < day.end + ORDER_SECONDS)


async def _marks(connection: AsyncConnection, sources: Sequence[str]) -> dict[str, int]:
    query = select(runs.c.source, runs.c.last).where(runs.c.first == 1, runs.c.source.in_(sources))
    return {row.source: row.last for row in await connection.execute(query)}
