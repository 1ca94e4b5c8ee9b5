"""What is missing of the sources: what they said they wrote, the open gaps, and what somebody has declared lost."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import bindparam, case, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.day_queries import is_open_quarantine, read_sources
from services.meter.adapters.tables import losses, quarantine, sources
from services.meter.core.completeness import Source, find_gaps
from shared.database import read_transaction
from shared.errors import Rejected
from shared.messages.meter import DeclaredLost, DeclareLost, Gaps, OpenGap

MOST = 500
"""Of each list in one answer, which is one message."""
TEXT_MOST = 300
"""Characters of a name or a reason."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What a source said of itself, when (Unix seconds)."""

    written: int
    """The number of its newest event; 0: none, or it did not say."""
    heard_at: float
    left: bool


class SqlGapStore:
    """Every call raises one of `shared.database.AWAY` when the database is; nothing is written then."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    async def heard(self, claims: Mapping[str, Heartbeat]) -> None:
        """Keep what sources said. One that has written nothing yet gets no row."""
        c = sources.c
        known = update(sources).where(c.source == bindparam("s"))
        known = known.values(heard_at=bindparam("at"), left=bindparam("gone"))
        upsert = self._insert(sources)
        new = upsert.excluded
        higher = case((new.written > func.coalesce(c.written, 0), new.written), else_=c.written)
        changed = {"written": higher, "heard_at": new.heard_at, "left": new.left}
        upsert = upsert.on_conflict_do_update(index_elements=["source"], set_=changed)
        async with self._engine.begin() as connection:
            for source, claim in sorted(claims.items()):
                if claim.written:
                    row = {"source": source, "seen_at": 0.0, "written": claim.written}
                    await connection.execute(upsert, row | {"heard_at": claim.heard_at, "left": claim.left})
                else:
                    await connection.execute(known, {"s": source, "at": claim.heard_at, "gone": claim.left})

    async def list_gaps(self, now: float) -> Gaps:
        """All that is missing and all that was given up, the newest first."""
        async with read_transaction(self._engine) as connection:
            found = await _open(connection, now)
            query = select(losses).order_by(losses.c.declared_at.desc(), losses.c.source, losses.c.first)
            rows = (await connection.execute(query.limit(MOST + 1))).all()
        given_up = [
            DeclaredLost(
                source=r.source, first=r.first, last=r.last, by=r.declared_by, reason=r.reason, at=r.declared_at
            )
            for r in rows
        ]
        more = len(found) > MOST or len(given_up) > MOST
        return Gaps(open=tuple(found[:MOST]), lost=tuple(given_up[:MOST]), more=more)

    async def declare_lost(self, order: DeclareLost, now: float) -> None:
        """`Rejected` unless all of it is missing: what is here cannot be lost."""
        for name in ("source", "by", "reason"):
            if not 1 <= len(getattr(order, name).strip()) <= TEXT_MOST:
                raise Rejected(f"{name}: expected a text of 1 to {TEXT_MOST} characters")
        async with self._engine.begin() as connection:
            # The lock that also who records events takes: none of these comes in meanwhile.
            lock = select(sources.c.source).where(sources.c.source == order.source).with_for_update()
            await connection.execute(lock)
            found = [gap for gap in await _open(connection, now) if gap.source == order.source]
            if not any(gap.first <= order.first <= order.last <= gap.last for gap in found):
                there = ", ".join(f"{gap.first} to {gap.last}" for gap in found[:5]) or "nothing"
                raise Rejected(
                    f"{order.source} {order.first} to {order.last} is not all missing; of that source {there} is"
                )
            row = {"source": order.source, "first": order.first, "last": order.last}
            row |= {"declared_by": order.by, "reason": order.reason, "declared_at": now}
            await connection.execute(insert(losses), row)


async def _open(connection: AsyncConnection, now: float) -> list[OpenGap]:
    found = [
        OpenGap(
            source=source.name,
            first=g.first,
            last=g.last,
            earliest=g.earliest,
            latest=g.latest,
            note=_note(source, g.first),
        )
        for source in await read_sources(connection, float("inf"))
        for g in find_gaps(source, now)
    ]
    q = quarantine.c
    query = select(q.source, q.source_seq, q.at, q.reason).where(is_open_quarantine()).order_by(q.at.desc())
    found += [
        OpenGap(
            source=r.source,
            first=r.source_seq,
            last=r.source_seq,
            earliest=r.at,
            latest=r.at,
            quarantined=r.reason[:TEXT_MOST],
        )
        for r in await connection.execute(query.limit(MOST + 1))
    ]
    return sorted(found, key=lambda gap: (-gap.latest, gap.source, gap.first))


def _note(source: Source, number: int) -> str | None:
    if number > source.confirmed:
        return None
    if source.sought < source.confirmed:
        return "the ledger had it and went back: it is reading the stream again"
    return "the ledger had it and went back, and the stream has it no longer"
