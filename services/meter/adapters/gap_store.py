"""What is missing from the sources: their heartbeats, the open gaps, and what was declared lost."""

from collections.abc import Mapping, Sequence

from sqlalchemy import bindparam, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meter.adapters.day_queries import is_open_quarantine, read_sources
from services.meter.adapters.tables import losses, quarantine, sources
from services.meter.core.completeness import Heartbeat, Source, count_missing, find_gaps
from shared.database import dialect_insert, read_transaction
from shared.errors import Rejected
from shared.messages.meter import DeclaredLost, DeclareLost, Gaps, OpenGap

MAX_ITEMS = 500
"""Items of each list in one answer, which is one message."""
MAX_TEXT_LENGTH = 300
"""Characters of a name or a reason."""


class SqlGapStore:
    """The port `GapStore` on the ledger's database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = dialect_insert(engine)

    async def record_heartbeats(self, heartbeats: Mapping[str, Heartbeat]) -> None:
        """Store heartbeats. A source that has written nothing yet gets no row."""
        c = sources.c
        known = update(sources).where(c.source == bindparam("s"))
        known = known.values(heard_at=bindparam("at"), left=bindparam("gone"))
        upsert = self._insert(sources)
        new = upsert.excluded
        higher = case((new.written > func.coalesce(c.written, 0), new.written), else_=c.written)
        changed = {"written": higher, "heard_at": new.heard_at, "left": new.left}
        upsert = upsert.on_conflict_do_update(index_elements=["source"], set_=changed)
        async with self._engine.begin() as connection:
            for source, heartbeat in sorted(heartbeats.items()):
                if heartbeat.written:
                    row = {"source": source, "seen_at": 0.0, "written": heartbeat.written}
                    await connection.execute(upsert, row | {"heard_at": heartbeat.received_at, "left": heartbeat.left})
                else:
                    await connection.execute(known, {"s": source, "at": heartbeat.received_at, "gone": heartbeat.left})

    async def list_gaps(self, now: float) -> Gaps:
        """Return everything that is missing or was declared lost, newest first."""
        async with read_transaction(self._engine) as connection:
            every_source = await read_sources(connection, float("inf"))
            gaps = await _open_gaps(connection, every_source, now)
            query = select(losses).order_by(losses.c.declared_at.desc(), losses.c.source, losses.c.first)
            rows = (await connection.execute(query.limit(MAX_ITEMS + 1))).all()
        declared = [
            DeclaredLost(
                source=r.source, first=r.first, last=r.last, by=r.declared_by, reason=r.reason, at=r.declared_at
            )
            for r in rows
        ]
        missing = sum(map(count_missing, every_source))
        more = len(gaps) > MAX_ITEMS or len(declared) > MAX_ITEMS
        return Gaps(open=tuple(gaps[:MAX_ITEMS]), lost=tuple(declared[:MAX_ITEMS]), more=more, missing=missing)

    async def declare_lost(self, order: DeclareLost, now: float) -> None:
        """Record that events are lost; raises `Rejected` unless all of them are missing."""
        for name in ("source", "by", "reason"):
            if not 1 <= len(getattr(order, name).strip()) <= MAX_TEXT_LENGTH:
                raise Rejected(f"{name}: expected a text of 1 to {MAX_TEXT_LENGTH} characters")
        async with self._engine.begin() as connection:
            # `SqlLedger.record` takes the same lock: none of these events can arrive meanwhile.
            lock = select(sources.c.source).where(sources.c.source == order.source).with_for_update()
            await connection.execute(lock)
            every_source = await read_sources(connection, float("inf"))
            gaps = [gap for gap in await _open_gaps(connection, every_source, now) if gap.source == order.source]
            if not any(gap.first <= order.first <= order.last <= gap.last for gap in gaps):
                missing = ", ".join(f"{gap.first} to {gap.last}" for gap in gaps[:5])
                state = f"only {missing} are missing" if missing else "no events of it are missing"
                raise Rejected(f"{order.source}: events {order.first} to {order.last} are not all missing: {state}")
            row = {"source": order.source, "first": order.first, "last": order.last}
            row |= {"declared_by": order.by, "reason": order.reason, "declared_at": now}
            await connection.execute(insert(losses), row)


async def _open_gaps(connection: AsyncConnection, every_source: Sequence[Source], now: float) -> list[OpenGap]:
    gaps = [
        OpenGap(
            source=source.name,
            first=g.first,
            last=g.last,
            earliest=g.earliest,
            latest=g.latest,
            note=_note(source, g.first),
        )
        for source in every_source
        for g in find_gaps(source, now)
    ]
    q = quarantine.c
    query = select(q.source, q.source_seq, q.at, q.reason).where(is_open_quarantine()).order_by(q.at.desc())
    gaps += [
        OpenGap(
            source=r.source,
            first=r.source_seq,
            last=r.source_seq,
            earliest=r.at,
            latest=r.at,
            quarantined=r.reason[:MAX_TEXT_LENGTH],
        )
        for r in await connection.execute(query.limit(MAX_ITEMS + 1))
    ]
    return sorted(gaps, key=lambda gap: (-gap.latest, gap.source, gap.first))


def _note(source: Source, number: int) -> str | None:
    if number > source.confirmed:
        return None
    if source.searched < source.confirmed:
        return "the ledger had it and was restored from an older copy: it is reading the stream again"
    return "the ledger had it and was restored from an older copy; the stream no longer has it"
