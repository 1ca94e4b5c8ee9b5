"""Days at hand: made anew when anything that they are made from changed, and not otherwise; on both databases."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.day_fingerprints import SqlDayFingerprints
from services.billing.adapters.schema import MIGRATIONS
from services.billing.adapters.tables import (
    accruals,
    cost_rows,
    payables,
    snapshot_invoices,
    snapshots,
    transitions,
)
from services.billing.app.day_reports import DayReports
from services.billing.app.meter_client import MeterClient
from services.billing.app.report_cache import ReportCache
from services.billing.core.utc_time import Window, day_of, day_window
from shared import database
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.errors import Rejected
from shared.messages.billing import DayReport
from shared.messages.codec import decode, encode
from shared.messages.meter import ErrorReply, Tokens, TokensQuery, TokensRow, TokenSums
from shared.units import DAY_MS, HOUR_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW
from tests.unit.billing.report_builders import report

TODAY = "2026-05-10"
NOON = DAY_WINDOW.start + 7 * DAY_MS + DAY_MS // 2
"""Of `TODAY`."""
THIRD, FOURTH = "2026-05-03", "2026-05-04"


@dataclass
class FakeDayReports:
    """Counts how often each day is made; the last one made is the stored one."""

    made: list[str] = field(default_factory=list)
    stored: dict[str, DayReport] = field(default_factory=dict)

    async def report(self, day: str) -> DayReport:
        self.made.append(day)
        self.stored[day] = report(day, "1", 1, revision=len(self.made))
        return self.stored[day]

    async def newest(self, day: str) -> DayReport | None:
        return self.stored.get(day)


@dataclass
class Stand:
    """A shelf on an empty database and a meter of which every day's tokens can be set."""

    engine: AsyncEngine
    bus: MemoryBus
    reports: FakeDayReports = field(default_factory=FakeDayReports)
    tokens: dict[str, int] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    meter_queries: list[tuple[str, str | None]] = field(default_factory=list)
    refuses: bool = False
    now: float = NOON / 1000

    def cache(self) -> ReportCache:
        reports = cast("DayReports", self.reports)
        meter, marks = MeterClient(self.bus), SqlDayFingerprints(self.engine)
        return ReportCache(reports, self.reports.newest, meter, marks, now=lambda: self.now)

    async def answer(self, data: bytes) -> bytes:
        query = decode(data, TokensQuery)
        if self.refuses:
            return encode(ErrorReply(reason="busy"))
        assert (query.by, query.busy) == (("day", "outcome"), False)
        self.meter_queries.append((query.day, query.to))
        window = Window(day_window(query.day).start, day_window(query.to or query.day).end)
        days = [day_of(at) for at in range(window.start, window.end, DAY_MS)]
        rows = [used(day, self.tokens.get(day, 1)) for day in days]
        gaps = tuple(sorted(self.incomplete & set(days)))
        values = Tokens(day=query.day, to=query.to, complete=not gaps, totals=TokenSums(), served=TokenSums())
        return encode(msgspec.structs.replace(values, rows=tuple(rows), reasons=gaps))

    async def add(self, table: Any, **values: Any) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(insert(table).values(**values))


def used(day: str, tokens: int) -> TokensRow:
    dimensions = {"day": day, "outcome": "completed"}
    return TokensRow(dimensions=dimensions, sums=TokenSums(requests=1, prompt_tokens=tokens))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Stand]:
    async with database.migrated_engine(url, MIGRATIONS, version_table="books_version") as engine:
        stand = Stand(engine, MemoryBus())
        handle = await stand.bus.respond("meter", subjects.METER_TOKENS, stand.answer)
        yield stand
        await handle.stop()


@pytest.fixture
async def stand(books_url: str) -> AsyncIterator[Stand]:
    async with opened(books_url) as made:
        yield made


async def a_snapshot(stand: Stand, **values: Any) -> int:
    """One without charges, of a billing period that is long over."""
    key = {"source": "s", "issuer": "i", "account": "a", "period_start": 0, "period_end": DAY_MS, "sha256": "0"}
    fixed = {"active": True, "imported_at": 0.0, "currency": "USD", "rows": 1}
    async with stand.engine.begin() as connection:
        made = await connection.execute(
            insert(snapshots).values(**{**key, **fixed, **values}).returning(snapshots.c.id)
        )
        return int(made.scalar_one())


async def a_bill(stand: Stand, start: int = DAY_WINDOW.start, length: int = DAY_MS, **values: Any) -> int:
    """A snapshot with one charge, on the third unless told otherwise, and its invoice."""
    snapshot = await a_snapshot(stand, **values)
    at = {"charge_start": start, "charge_end": start + length}
    await stand.add(cost_rows, snapshot_id=snapshot, billed=Decimal(1), category="Usage", **at)
    await stand.add(snapshot_invoices, snapshot_id=snapshot, invoice_id="I-1", billed=Decimal(1))
    return snapshot


async def a_bill_of_the_period(stand: Stand) -> None:
    """Without a charge on the day, which waits for it all the same."""
    month = {"period_start": DAY_WINDOW.start - 2 * DAY_MS, "period_end": DAY_WINDOW.start + 29 * DAY_MS}
    await a_bill(stand, DAY_WINDOW.start + 9 * DAY_MS, issuer="another", **month)


async def a_correction_of_the_period(stand: Stand) -> None:
    """In a later bill: it says which machines are on the period's."""
    june = {"period_start": DAY_WINDOW.start + 29 * DAY_MS, "period_end": DAY_WINDOW.start + 59 * DAY_MS}
    await a_bill(stand, DAY_WINDOW.start + 3 * DAY_MS, issuer="later", **june)


async def a_payable(stand: Stand) -> None:
    await stand.add(payables, source="s", issuer="i", invoice_id="I-1", amount=Decimal(1), voids=None, noted_at=0.0)


async def a_state(stand: Stand, at: int) -> None:
    values = {"machine": "a-1", "to_state": "ready", "tier": "A", "reason": "test"}
    await stand.add(transitions, at=at, **values)


async def a_late_event(stand: Stand) -> None:
    stand.tokens[THIRD] = 2


async def a_late_event_of_the_next_day(stand: Stand) -> None:
    """It may have begun before midnight."""
    stand.tokens[FOURTH] = 2


async def an_open_gap(stand: Stand) -> None:
    stand.incomplete.add(THIRD)


async def the_next_day(stand: Stand) -> None:
    stand.now += 86_400


def transition_at(at: int) -> Callable[[Stand], Awaitable[None]]:
    async def change(stand: Stand) -> None:
        await a_state(stand, at)

    return change


CHANGES: dict[str, Callable[[Stand], Awaitable[object]]] = {
    "a bill": a_bill,
    "a bill of a day before, to its end": lambda stand: a_bill(stand, DAY_WINDOW.start - DAY_MS, 2 * DAY_MS),
    "a moment that is billed": lambda stand: a_bill(stand, DAY_WINDOW.start, 0),
    "a bill of its period": a_bill_of_the_period,
    "a correction of its period": a_correction_of_the_period,
    "a payable amount": a_payable,
    "a state on the day": transition_at(DAY_WINDOW.start + HOUR_MS),
    "a state of before, told late": transition_at(DAY_WINDOW.start - 9 * DAY_MS),
    "a wake that ended after midnight": transition_at(DAY_WINDOW.end + 60_000),
    "a late event": a_late_event,
    "a late event of the next day": a_late_event_of_the_next_day,
    "an open gap": an_open_gap,
    "the calendar": the_next_day,
}


@pytest.mark.parametrize("what", CHANGES)
async def test_whatever_a_day_is_made_from_makes_it_anew_once(stand: Stand, what: str) -> None:
    await a_bill(stand, period_start=DAY_WINDOW.start - DAY_MS, period_end=DAY_WINDOW.start + 9 * DAY_MS)
    if what != "a payable amount":
        await a_payable(stand)
    cache = stand.cache()
    first = await cache.reports([THIRD])
    assert await cache.reports([THIRD]) == first
    assert stand.reports.made == [THIRD]
    await CHANGES[what](stand)
    second = await cache.reports([THIRD])
    assert second != first
    assert await cache.reports([THIRD]) == second
    assert stand.reports.made == [THIRD, THIRD]


async def test_a_bill_that_no_longer_counts_makes_it_anew(stand: Stand) -> None:
    for issuer in ("a", "b"):
        await a_bill(stand, issuer=issuer)
    cache = stand.cache()
    await cache.reports([THIRD])
    async with stand.engine.begin() as connection:
        await connection.execute(update(snapshots).where(snapshots.c.issuer == "a").values(active=False))
    await cache.reports([THIRD])
    assert stand.reports.made == [THIRD, THIRD]


async def test_what_another_day_is_made_from_leaves_it_alone(stand: Stand) -> None:
    cache = stand.cache()
    await a_bill(stand)
    await cache.reports([THIRD, FOURTH])
    june: dict[str, Any] = {
        "period_start": DAY_WINDOW.start + 29 * DAY_MS,
        "period_end": DAY_WINDOW.start + 59 * DAY_MS,
        "issuer": "another",
    }
    await a_bill(stand, DAY_WINDOW.start + 30 * DAY_MS, **june)
    await a_bill(stand, DAY_WINDOW.start - DAY_MS, DAY_MS, issuer="of the day before")
    await cache.reports([THIRD, FOURTH])
    assert stand.reports.made == [THIRD, FOURTH]
    await a_payable(stand)  # of the invoice with a charge on the third
    await cache.reports([THIRD, FOURTH])
    assert stand.reports.made == [THIRD, FOURTH, THIRD]
    stand.reports.made[2:] = []
    await a_state(stand, DAY_WINDOW.end + 2 * HOUR_MS)
    stand.tokens["2026-05-05"] = 9
    assert [each.day for each in await cache.reports([THIRD, FOURTH])] == [THIRD, FOURTH]
    assert stand.reports.made == [THIRD, FOURTH, FOURTH]


async def test_all_complete_days_need_one_meter_query(stand: Stand) -> None:
    cache = stand.cache()
    days = [f"2026-05-{number:02}" for number in range(9, 1, -1)]
    assert [each.day for each in await cache.reports(days)] == days
    assert stand.meter_queries == [("2026-05-02", "2026-05-09"), (TODAY, TODAY)]
    assert sorted(stand.reports.made) == days[::-1]
    stand.incomplete.add(THIRD)
    await cache.reports(days)
    assert stand.reports.made[8:] == [THIRD]
    assert len(stand.meter_queries) == 2 + 8
    stand.tokens[FOURTH] = 3
    await cache.reports(days)
    assert sorted(stand.reports.made[9:]) == [THIRD, FOURTH]


async def test_a_running_bill_makes_its_own_day_anew(stand: Stand) -> None:
    cache = stand.cache()
    await cache.reports([THIRD, FOURTH])
    row = {"machine": "a-1", "hour": DAY_WINDOW.start, "amount": 1, "basis": "running bill"}
    await stand.add(accruals, **row, since=DAY_WINDOW.start, through=DAY_WINDOW.start + 1000)
    await cache.reports([THIRD, FOURTH])
    async with stand.engine.begin() as connection:
        await connection.execute(update(accruals).values(through=DAY_WINDOW.start + 2000))
    await cache.reports([THIRD, FOURTH])
    assert stand.reports.made == [THIRD, FOURTH, THIRD, THIRD]
    at = DAY_WINDOW.end + 23 * HOUR_MS
    await stand.add(accruals, **{**row, "hour": at}, since=at, through=at + 1000)
    await cache.reports([THIRD, FOURTH])
    assert stand.reports.made[4:] == [FOURTH]


async def test_a_day_is_made_anew_each_time_until_it_is_an_hour_over(stand: Stand) -> None:
    cache = stand.cache()
    for _ in range(2):
        await cache.reports([TODAY])
    stand.now = (DAY_WINDOW.end + 7 * DAY_MS) / 1000 + 3599
    for _ in range(2):
        await cache.reports([TODAY])
    stand.now += 1
    for _ in range(2):
        await cache.reports([TODAY])
    assert stand.reports.made == [TODAY] * 5


async def test_a_revision_that_was_made_by_hand_is_returned(stand: Stand) -> None:
    cache = stand.cache()
    await cache.reports([THIRD])
    stand.reports.stored[THIRD] = msgspec.structs.replace(stand.reports.stored[THIRD], revision=9)
    assert [each.revision for each in await cache.reports([THIRD])] == [9]
    del stand.reports.stored[THIRD]
    assert [each.revision for each in await cache.reports([THIRD])] == [2]


async def test_a_day_that_could_not_be_made_is_made_the_next_time(stand: Stand) -> None:
    cache = stand.cache()
    stand.refuses = True
    with pytest.raises(Rejected, match="the meter refused: busy"):
        await cache.reports([THIRD])
    stand.refuses = False
    await cache.reports([THIRD])
    assert stand.reports.made == [THIRD]
