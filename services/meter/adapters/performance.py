"""The service's speed in the ledger: a sketch for each hour, tier, model and metric, beside the tokens of each minute.

Written from new events alone, in their own transaction: what comes again changes nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text, bindparam, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.tables import metadata, minutes
from services.meter.core.performance import HOUR, PerformanceGroup, PerformanceKey, sketch_events
from services.meter.core.rollups import MINUTE
from services.meter.core.sketch import Sketch
from shared.database import read_transaction
from shared.messages.gateway import UsageEvent
from shared.messages.meter_figures import FiguresQuery

SKETCHES_AT_ONCE = 500
PACES_AT_ONCE = 5000
"""Rows between two looks at what else there is to do: some 10 ms of work each."""
MINUTES = int(HOUR / MINUTE)

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
"""`count` and `total` are the sketch's, so that they can be read without it."""

_KEY = [column.name for column in figures.primary_key.columns]


async def add_performance(
    connection: AsyncConnection, insert: Callable[[Table], Any], fresh: Collection[UsageEvent]
) -> None:
    """`insert`: the dialect's own.

    The first statement locks each row and says which bins were in it, the second one adds ours to them.
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
    """Raises one of `shared.database.AWAY` when the database is."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, query: FiguresQuery, hours: tuple[int, int]) -> dict[tuple[str, ...], PerformanceGroup]:
        """What there is from the first of `hours` up to the second, all as of one moment."""
        groups = _Groups(query.by)
        async with read_transaction(self._engine) as connection:
            await _read_sketches(connection, query, hours, groups)
            await _read_paces(connection, query, hours, groups)
        return dict(groups.found)


class _Groups:
    """What belongs together, by the dimensions asked for."""

    def __init__(self, by: Sequence[str]) -> None:
        self.found: defaultdict[tuple[str, ...], PerformanceGroup] = defaultdict(PerformanceGroup)
        self._by = by
        self._known: dict[tuple[int, str, str], PerformanceGroup] = {}
        """Many rows are of one hour, tier and model: their group is looked for once."""

    def of(self, hour: int, tier: str, model: str) -> PerformanceGroup:
        key = (hour, tier, model)
        if key not in self._known:
            moment = datetime.fromtimestamp(hour * HOUR, UTC)
            values = {"tier": tier, "model": model, "day": f"{moment:%Y-%m-%d}", "hour": f"{moment:%Y-%m-%dT%H:00:00Z}"}
            self._known[key] = self.found[tuple(values[name] for name in self._by)]
        return self._known[key]


async def _read_sketches(
    connection: AsyncConnection, query: FiguresQuery, hours: tuple[int, int], groups: _Groups
) -> None:
    f = figures.c
    wanted = select(f.hour, f.tier, f.model, f.metric, f.total, f.bins)
    wanted = wanted.where(f.hour >= hours[0], f.hour < hours[1], *_only(figures, query))
    async with connection.stream(wanted) as rows:
        async for some in rows.partitions(SKETCHES_AT_ONCE):
            for hour, tier, model, metric, total, bins in some:
                groups.of(hour, tier, model).add(metric, Sketch.unpacked(bins, total))


async def _read_paces(
    connection: AsyncConnection, query: FiguresQuery, hours: tuple[int, int], groups: _Groups
) -> None:
    """Tokens of a minute are added up over what is not asked for before minutes are compared."""
    p = minutes.c
    tier = p.tier if "tier" in query.by else literal("")
    model = p.model if "model" in query.by else literal("")
    wanted = select(p.minute, tier, model, func.sum(p.prompt_tokens), func.sum(p.completion_tokens))
    first, end = (hour * MINUTES for hour in hours)
    wanted = wanted.where(p.minute >= first, p.minute < end, p.outcome != "failed", *_only(minutes, query))
    wanted = wanted.group_by(p.minute, *(p[name] for name in ("tier", "model") if name in query.by))
    async with connection.stream(wanted) as rows:
        async for some in rows.partitions(PACES_AT_ONCE):
            for minute, its_tier, its_model, prompt, completion in some:
                gathered = groups.of(minute // MINUTES, its_tier, its_model)
                # PostgreSQL's sum of whole numbers is a decimal.
                gathered.output.append(int(completion))
                gathered.total.append(int(prompt) + int(completion))


def _only(table: Table, query: FiguresQuery) -> list[Any]:
    wanted = {"tier": query.tier, "model": query.model}
    return [table.c[name] == value for name, value in wanted.items() if value is not None]
