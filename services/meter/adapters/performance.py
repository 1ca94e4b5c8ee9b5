"""Throughput and latency in the ledger: a sketch per hour, tier, model and metric, beside the tokens of each minute.

They are written from new events only, in the events' own transaction: a repeated event changes nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text, bindparam, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.tables import metadata, minutes
from services.meter.core.performance import PerformanceGroup, PerformanceKey, sketch_events
from services.meter.core.rollups import MINUTES_PER_HOUR
from services.meter.core.sketch import Sketch
from shared.database import read_transaction
from shared.messages.gateway import UsageEvent
from shared.messages.meter_figures import FiguresQuery
from shared.units import HOUR_S

SKETCHES_PER_FETCH = 500
MINUTES_PER_FETCH = 5000
"""Rows handled before other tasks get their turn: some 10 ms of work each."""

figures = Table(
    "figures",
    metadata,
    Column("hour", BigInteger, primary_key=True),
    Column("tier", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("count", BigInteger),
    Column("total", BigInteger),
    Column("bins", LargeBinary),
)
"""`count` and `total` are the sketch's, so they can be read without it."""

_KEY = [column.name for column in figures.primary_key.columns]


async def add_performance(
    connection: AsyncConnection, insert: Callable[[Table], Any], fresh: Collection[UsageEvent]
) -> None:
    """Add the sketches of new events. `insert`: the dialect's own.

    The first statement locks each row and returns its bins; the second writes them with the new values added.
    """
    sketches = sketch_events(fresh)
    if not sketches:
        return
    rows = [{**vars(k), "count": s.count, "total": s.total, "bins": s.packed} for k, s in sketches.items()]
    upsert = insert(figures)
    more = {name: figures.c[name] + upsert.excluded[name] for name in ("count", "total")}
    upsert = upsert.on_conflict_do_update(index_elements=_KEY, set_=more)
    returning = upsert.returning(*(figures.c[name] for name in _KEY), figures.c.count, figures.c.bins)
    grown = []
    for *key, count, bins in (await connection.execute(returning, rows)).all():
        ours = sketches[PerformanceKey(*key)]
        if count > ours.count:
            ours.merge(Sketch.unpacked(bins))
            grown.append({**{f"its_{name}": value for name, value in zip(_KEY, key, strict=True)}, "bins": ours.packed})
    if grown:
        its = [figures.c[name] == bindparam(f"its_{name}") for name in _KEY]
        await connection.execute(update(figures).where(*its), grown)


class SqlPerformanceReader:
    """The port `PerformanceReader` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, query: FiguresQuery, hours: tuple[int, int]) -> dict[tuple[str, ...], PerformanceGroup]:
        """Return one group per combination of the query's dimensions, all as of one moment."""
        groups = _Groups(query.by)
        async with read_transaction(self._engine) as connection:
            await _read_sketches(connection, query, hours, groups)
            await _read_paces(connection, query, hours, groups)
        return dict(groups.by_values)


class _Groups:
    """The groups by the values of the requested dimensions."""

    def __init__(self, by: Sequence[str]) -> None:
        self.by_values: defaultdict[tuple[str, ...], PerformanceGroup] = defaultdict(PerformanceGroup)
        self._by = by
        self._cache: dict[tuple[int, str, str], PerformanceGroup] = {}
        """Many rows have the same hour, tier and model: their group is computed once."""

    def group_of(self, hour: int, tier: str, model: str) -> PerformanceGroup:
        key = (hour, tier, model)
        if key not in self._cache:
            moment = datetime.fromtimestamp(hour * HOUR_S, UTC)
            values = {"tier": tier, "model": model, "day": f"{moment:%Y-%m-%d}", "hour": f"{moment:%Y-%m-%dT%H:00:00Z}"}
            self._cache[key] = self.by_values[tuple(values[name] for name in self._by)]
        return self._cache[key]


async def _read_sketches(
    connection: AsyncConnection, query: FiguresQuery, hours: tuple[int, int], groups: _Groups
) -> None:
    f = figures.c
    statement = select(f.hour, f.tier, f.model, f.metric, f.total, f.bins)
    statement = statement.where(f.hour >= hours[0], f.hour < hours[1], *_filters(figures, query))
    async with connection.stream(statement) as rows:
        async for part in rows.partitions(SKETCHES_PER_FETCH):
            for hour, tier, model, metric, total, bins in part:
                groups.group_of(hour, tier, model).add(metric, Sketch.unpacked(bins, total))


async def _read_paces(
    connection: AsyncConnection, query: FiguresQuery, hours: tuple[int, int], groups: _Groups
) -> None:
    """Read the tokens of each minute, added up over the dimensions that the query leaves out."""
    p = minutes.c
    tier = p.tier if "tier" in query.by else literal("")
    model = p.model if "model" in query.by else literal("")
    statement = select(p.minute, tier, model, func.sum(p.prompt_tokens), func.sum(p.completion_tokens))
    first, end = (hour * MINUTES_PER_HOUR for hour in hours)
    statement = statement.where(p.minute >= first, p.minute < end, p.outcome != "failed", *_filters(minutes, query))
    statement = statement.group_by(p.minute, *(p[name] for name in ("tier", "model") if name in query.by))
    async with connection.stream(statement) as rows:
        async for part in rows.partitions(MINUTES_PER_FETCH):
            for minute, its_tier, its_model, prompt, completion in part:
                group = groups.group_of(minute // MINUTES_PER_HOUR, its_tier, its_model)
                # PostgreSQL's sum of whole numbers is a decimal.
                group.output.append(int(completion))
                group.total.append(int(prompt) + int(completion))


def _filters(table: Table, query: FiguresQuery) -> list[Any]:
    filters = {"tier": query.tier, "model": query.model}
    return [table.c[name] == value for name, value in filters.items() if value is not None]
