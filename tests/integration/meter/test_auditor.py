"""When days are audited: until they are final, again when events are late, and never when nothing happened."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.app.auditor import Auditor
from services.meter.core.batch import parse_batch
from services.meter.core.day import Day
from services.meter.core.day_audit import LedgerDay
from services.meter.metrics import AuditMetrics
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.messages.codec import decode, encode
from shared.messages.meter import ErrorReply, Tokens, TokensQuery, TokenSums
from shared.messages.meter_audit import Audit, AuditQuery
from tests.unit.meter.events import MIDNIGHT, event

DAY = "2026-11-23"
DAY_SECONDS = 86_400.0


class AuditorHarness:
    """An auditor with its inputs."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.bus = MemoryBus()
        self.ledger = SqlLedger(engine)
        self.store = SqlAuditStore(engine)
        self.registry = CollectorRegistry()
        self.complete = True
        self.now = MIDNIGHT + 1.5 * DAY_SECONDS
        self.audited_days: list[str] = []
        self.auditor = Auditor(self.bus, self.store, self._tokens, AuditMetrics(self.registry), lambda: self.now)

    async def served(self, seq: int, at: float = 60.0, source: str = "gw-1") -> None:
        e = event(source, seq, completed_at=MIDNIGHT + at)
        await self.ledger.record(parse_batch([encode(e)], self.now))

    async def audit_round(self) -> list[str]:
        """Run one round and return the days that it audited."""
        self.audited_days.clear()
        await self.auditor.audit_recent_days()
        return sorted(self.audited_days)

    async def published(self) -> Audit:
        entry = await self.bus.get(topology.REPORTS, subjects.audit_key(DAY))
        assert entry is not None
        return decode(entry.value, Audit)

    async def _tokens(self, data: bytes) -> bytes:
        day = decode(data, TokensQuery).day
        self.audited_days.append(day)
        if day == "2026-11-21":
            return encode(ErrorReply(reason="the database is away"))
        return encode(Tokens(day=day, complete=self.complete and day == DAY, totals=TokenSums(), served=TokenSums()))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[AuditorHarness]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'l.sqlite'}"
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield AuditorHarness(engine)


async def test_day_is_audited_until_final_and_again_for_late_events(harness: AuditorHarness) -> None:
    await harness.served(1)
    harness.complete = False
    assert await harness.audit_round() == [DAY, "2026-11-24"]
    assert ((await harness.published()).final, (await harness.published()).events) == (False, 1)
    assert await harness.audit_round() == [DAY, "2026-11-24"]
    harness.complete = True
    assert await harness.audit_round() == [DAY, "2026-11-24"]
    assert (await harness.published()).final
    assert await harness.audit_round() == ["2026-11-24"], "a final day is left alone"
    await harness.served(2, 70.0)
    assert await harness.audit_round() == [DAY, "2026-11-24"]
    assert (await harness.published()).events == 2
    assert await harness.store.load_audit(DAY) == await harness.published()


async def test_faults_are_counted_and_a_refused_day_stops_no_other(harness: AuditorHarness) -> None:
    await harness.served(1)
    await harness.served(3)
    await harness.served(1, -1.5 * DAY_SECONDS, source="gw-2")
    assert await harness.audit_round() == ["2026-11-21", DAY, "2026-11-24"]
    assert harness.registry.get_sample_value("spot_meter_audit_wrong") == 1.0
    assert (await harness.published()).sources[0].missing == 1


async def test_failed_audit_is_counted_and_stops_no_other_day(
    harness: AuditorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_day, broken = harness.store.load_day, {DAY}

    async def fail(day: Day) -> LedgerDay:
        if day.name in broken:
            raise ZeroDivisionError("a bug")
        return await load_day(day)

    monkeypatch.setattr(harness.store, "load_day", fail)
    await harness.served(1)
    await harness.served(1, -0.5 * DAY_SECONDS, source="gw-2")
    assert await harness.audit_round() == ["2026-11-22", "2026-11-24"]
    assert harness.registry.get_sample_value("spot_meter_audit_wrong") == 1.0
    assert await harness.store.load_audit(DAY) is None
    broken.clear()
    assert await harness.audit_round() == ["2026-11-22", DAY, "2026-11-24"]
    assert harness.registry.get_sample_value("spot_meter_audit_wrong") == 0.0
    assert (await harness.published()).events == 1


async def test_old_days_are_audited_only_on_request(harness: AuditorHarness) -> None:
    await harness.served(1)
    harness.now += 7 * DAY_SECONDS
    assert await harness.audit_round() == ["2026-12-01"]
    answer = decode(await harness.auditor.handle_audit(encode(AuditQuery(day=DAY))), Audit)
    assert answer.events == 1
    assert await harness.store.load_audit(DAY) is None, "an answer keeps nothing"
