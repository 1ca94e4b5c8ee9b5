"""`meter.history`: every request of a range once, page by page, on real databases and over the bus."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from services.meter.adapters import ledger as adapter
from services.meter.adapters.ledger import SqlLedger
from services.meter.core.batch import parse_batch
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import ErrorReply, History, HistoryQuery, PastRequest
from tests.integration.meter.test_ledger import ledger_on
from tests.integration.meter.test_process import meter_on
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.meter.events import MIDNIGHT, event

ALL = HistoryQuery(start=MIDNIGHT, end=MIDNIGHT + 86400.0)


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[SqlLedger]:
    async with ledger_on(ledger_url) as opened:
        yield opened


async def record(ledger: SqlLedger, *sent: UsageEvent) -> None:
    await ledger.record(parse_batch([encode(e) for e in sent], MIDNIGHT + 86400.0))


async def pages(ledger: SqlLedger, query: HistoryQuery) -> list[History]:
    history = [await ledger.read_history(query)]
    while history[-1].next is not None:
        assert len(history) < 100
        history.append(await ledger.read_history(msgspec.structs.replace(query, after=history[-1].next)))
    return history


async def test_history_row_matches_its_event(ledger: SqlLedger) -> None:
    await record(
        ledger,
        event(source_seq=1, completed_at=MIDNIGHT + 200.0, duration=170.0, wake_wait=150.5, model="b"),
        event(source_seq=2, completed_at=MIDNIGHT + 100.25, duration=1.5, model="a", outcome="failed", prompt_tokens=0),
        event(source_seq=3, completed_at=MIDNIGHT + 300.0, duration=1.0, wake_wait=2.0, model="b"),
    )
    assert await pages(ledger, ALL) == [
        History(
            models=("a", "b"),
            uses=(
                PastRequest(completed_at=MIDNIGHT + 100.25, waited=0.0, seconds=1.5, model=0, tokens=7),
                PastRequest(completed_at=MIDNIGHT + 200.0, waited=150.5, seconds=19.5, model=1, tokens=17),
                PastRequest(completed_at=MIDNIGHT + 300.0, waited=2.0, seconds=0.0, model=1, tokens=17),
            ),
            next=None,
        )
    ]


async def test_history_range_excludes_its_end(ledger: SqlLedger) -> None:
    await record(ledger, *(event(source_seq=n, completed_at=MIDNIGHT + n) for n in range(1, 6)))
    (history,) = await pages(ledger, HistoryQuery(start=MIDNIGHT + 2.0, end=MIDNIGHT + 4.0))
    assert [use.completed_at - MIDNIGHT for use in history.uses] == [2.0, 3.0]


async def test_history_pages_have_every_request_once_when_many_completed_together(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "HISTORY_ROWS", 3)
    expected = [
        event(source_seq=n, completed_at=MIDNIGHT + n // 5 + 0.1, prompt_tokens=n, completion_tokens=0, cached_tokens=0)
        for n in range(1, 13)
    ]
    for one in reversed(expected):
        await record(ledger, one)
    history = await pages(ledger, ALL)
    assert [len(one.uses) for one in history] == [3, 3, 3, 3, 0]
    uses = [use for one in history for use in one.uses]
    assert sorted(use.tokens for use in uses) == list(range(1, 13))
    assert [use.completed_at for use in uses] == sorted(e.completed_at for e in expected)


async def test_meter_answers_queries_and_rejects_invalid_ones(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> None:
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        answer = decode(await bus.request(subjects.METER_HISTORY, encode(ALL), timeout=PATIENCE_SECONDS), History)
        assert answer == History(models=(), uses=(), next=None)
        uses = await bus.request(
            subjects.METER_HISTORY, b'{"type":"history_query.v1","start":1}', timeout=PATIENCE_SECONDS
        )
        assert "end" in decode(uses, ErrorReply).reason
