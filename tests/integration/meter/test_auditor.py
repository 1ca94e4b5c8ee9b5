"""Which days are audited when: until they are final, again when events come late, and never when nothing happened."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.app.auditor import Auditor
from services.meter.core.batch import parse_batch
from services.meter.core.day import Day
from services.meter.core.day_audit import LedgerDay
from services.meter.metrics import AuditMetrics
from services.meter.wiring import MIGRATIONS, VERSION_TABLE
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.messages.codec import decode, encode
from shared.messages.meter import ErrorReply, Tokens, TokensQuery, TokenSums
from shared.messages.meter_audit import Audit, AuditQuery
from tests.unit.meter.events import MIDNIGHT, event

DAY = "2026-11-23"
DAY_SECONDS = 86_400.0


class Desk:
    """An auditor, and what it goes by."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.bus = MemoryBus()
        self.ledger = SqlLedger(engine)
        self.facts = SqlAuditStore(engine)
        self.registry = CollectorRegistry()
        self.complete = True
        self.now = MIDNIGHT + 1.5 * DAY_SECONDS
        self.asked: list[str] = []
        self.auditor = Auditor(self.bus, self.facts, self._tokens, AuditMetrics(self.registry), lambda: self.now)

    async def served(self, seq: int, at: float = 60.0, source: str = "gw-1") -> None:
        e = event(source, seq, completed_at=MIDNIGHT + at)
        await self.ledger.record(parse_batch([encode(e)], self.now))

    async def made(self) -> list[str]:
        """The days that this round made."""
        self.asked.clear()
        await self.auditor.audit_recent_days()
        return sorted(self.asked)

    async def published(self) -> Audit:
        entry = await self.bus.get(topology.REPORTS, subjects.audit_key(DAY))
        assert entry is not None
        return decode(entry.value, Audit)

    async def _tokens(self, data: bytes) -> bytes:
        day = decode(data, TokensQuery).day
        self.asked.append(day)
        if day == "2026-11-21":
            return encode(ErrorReply(reason="the database is away"))
        return encode(Tokens(day=day, complete=self.complete and day == DAY, totals=TokenSums(), served=TokenSums()))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'l.sqlite'}"
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield Desk(engine)


async def test_a_day_is_made_until_it_is_final_and_again_for_late_events(desk: Desk) -> None:
    await desk.served(1)
    desk.complete = False
    assert await desk.made() == [DAY, "2026-11-24"]
    assert ((await desk.published()).final, (await desk.published()).events) == (False, 1)
    assert await desk.made() == [DAY, "2026-11-24"]
    desk.complete = True
    assert await desk.made() == [DAY, "2026-11-24"]
    assert (await desk.published()).final
    assert await desk.made() == ["2026-11-24"], "a final day is left alone"
    await desk.served(2, 70.0)
    assert await desk.made() == [DAY, "2026-11-24"]
    assert (await desk.published()).events == 2
    assert await desk.facts.load_audit(DAY) == await desk.published()


async def test_what_is_wrong_is_counted_and_a_day_that_cannot_be_made_stops_no_other(desk: Desk) -> None:
    await desk.served(1)
    await desk.served(3)
    await desk.served(1, -1.5 * DAY_SECONDS, source="gw-2")
    assert await desk.made() == ["2026-11-21", DAY, "2026-11-24"]
    assert desk.registry.get_sample_value("spot_meter_audit_wrong") == 1.0
    assert (await desk.published()).sources[0].missing == 1


async def test_a_day_whose_audit_fails_is_counted_and_the_others_are_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_day, broken = desk.facts.load_day, {DAY}

    async def fail(day: Day) -> LedgerDay:
        if day.name in broken:
            raise ZeroDivisionError("a bug")
        return await load_day(day)

    monkeypatch.setattr(desk.facts, "load_day", fail)
    await desk.served(1)
    await desk.served(1, -0.5 * DAY_SECONDS, source="gw-2")
    assert await desk.made() == ["2026-11-22", "2026-11-24"]
    assert desk.registry.get_sample_value("spot_meter_audit_wrong") == 1.0
    assert await desk.facts.load_audit(DAY) is None
    broken.clear()
    assert await desk.made() == ["2026-11-22", DAY, "2026-11-24"]
    assert desk.registry.get_sample_value("spot_meter_audit_wrong") == 0.0
    assert (await desk.published()).events == 1


async def test_days_of_long_ago_are_made_only_when_asked_for(desk: Desk) -> None:
    await desk.served(1)
    desk.now += 7 * DAY_SECONDS
    assert await desk.made() == ["2026-12-01"]
    answer = decode(await desk.auditor.handle_audit(encode(AuditQuery(day=DAY))), Audit)
    assert answer.events == 1
    assert await desk.facts.load_audit(DAY) is None, "an answer keeps nothing"
