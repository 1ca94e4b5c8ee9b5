"""The price list is made once a day and never changed; statements price each day by the list as it was."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.band_store import SqlBandStore
from services.billing.adapters.schema import MIGRATIONS
from services.billing.adapters.tables import bands as bands_table
from services.billing.app.band_maker import BandMaker
from services.billing.app.meter_client import MeterClient
from services.billing.app.report_cache import ReportCache
from services.billing.app.statements import Statements
from services.billing.ports import BandBasis
from services.billing.settings import settings
from shared import database
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.messages.billing import Band, Bands, BandsQuery, DayReport, Statement, StatementQuery
from shared.messages.codec import decode, encode
from shared.messages.meter import ErrorReply, Tokens, TokensQuery, TokensRow, TokenSums
from tests.integration.billing.billing_service import CONFIG, configured
from tests.integration.billing.fake_reports import TODAY, YESTERDAY, FakeReportCache
from tests.unit.billing.report_builders import day, report

MILLION = 1_000_000
MIDNIGHT = 1_777_852_800.0
"""With which `TODAY` begins."""
MODELS = '[[model]]\nname = "m"\nlineup = ["A"]\n[[model]]\nname = "new"\nlineup = ["A"]\n'


@dataclass
class Stall:
    """A maker of bands on an empty price book, and the clock that it goes by."""

    engine: AsyncEngine
    cache: FakeReportCache = field(default_factory=FakeReportCache)
    now: float = MIDNIGHT + 60.0

    def __post_init__(self) -> None:
        self.book = SqlBandStore(self.engine)

    def maker(self) -> BandMaker:
        cache = cast("ReportCache", self.cache)
        return BandMaker(self.book, cache, settings(configured(CONFIG + MODELS)), now=lambda: self.now)

    async def make_bands(self, today: str, *reports: DayReport) -> None:
        self.cache.day = today
        self.cache.put(*reports)
        await self.maker().make_bands()

    async def bands_on(self, on: str) -> dict[str, Band]:
        answer = decode(await self.maker().answer(encode(BandsQuery(day=on))), Bands)
        assert (answer.day, [band.model for band in answer.bands]) == (on, ["m", "new"])
        return {band.model: band for band in answer.bands}

    async def rows(self) -> list[Any]:
        async with database.read_transaction(self.engine) as connection:
            return list(await connection.execute(select(bands_table).order_by(bands_table.c.day, bands_table.c.model)))


@pytest.fixture
async def stall(books_url: str) -> AsyncIterator[Stall]:
    async with database.migrated_engine(books_url, MIGRATIONS, version_table="books_version") as engine:
        yield Stall(engine)


def upper(bands: dict[str, Band]) -> tuple[Decimal | None, Decimal | None]:
    return bands["m"].low, bands["m"].high


async def test_bands_are_made_of_the_days_before_and_kept_with_their_reasons(stall: Stall) -> None:
    await stall.make_bands(
        TODAY, report(YESTERDAY, "4", MILLION, revision=3), report(day(2), "9", MILLION, state="estimated")
    )
    bands = await stall.bands_on(TODAY)
    assert bands["m"] == Band(
        model="m",
        day=TODAY,
        low=Decimal(3),
        high=Decimal(5),
        trailing_7=Decimal(4),
        trailing_28=Decimal(4),
        left_out=(f"{day(2)}: estimated",),
    )
    assert bands["new"].reason == "fewer than 1000000 tokens on billed days of the last 7"
    kept = {row.model: msgspec.json.decode(row.basis, type=BandBasis) for row in await stall.rows()}
    assert (kept["m"].band, kept["m"].revisions[YESTERDAY], len(kept["m"].revisions)) == (bands["m"], 3, 28)
    assert [(row.low, row.high) for row in await stall.rows()] == [(Decimal(3), Decimal(5)), (None, None)]


async def test_they_are_made_once_a_day_whatever_is_learned_later(stall: Stall) -> None:
    await stall.make_bands(TODAY, report(YESTERDAY, "4", MILLION))
    stall.cache.requested_days.clear()
    await stall.make_bands(TODAY, report(YESTERDAY, "40", MILLION))
    assert stall.cache.requested_days == []
    assert upper(await stall.bands_on(TODAY)) == (Decimal(3), Decimal(5))
    await stall.make_bands(day(5), report(TODAY, "40", MILLION))
    assert upper(await stall.bands_on(day(5))) == (Decimal(30), Decimal(50))
    assert upper(await stall.bands_on(TODAY)) == (Decimal(3), Decimal(5))
    assert len(await stall.rows()) == 3


async def test_an_unchanged_band_writes_no_row_and_stays_in_force(stall: Stall) -> None:
    for number in range(4, 9):
        await stall.make_bands(day(number), report(day(number - 1), "4", MILLION))
    assert [(row.model, row.day) for row in await stall.rows()] == [("m", TODAY), ("new", TODAY)]
    assert (await stall.bands_on(day(8)))["m"].day == TODAY
    await stall.make_bands(day(9), report(day(8), "70", MILLION))
    assert upper(await stall.bands_on(day(9))) == (Decimal(10), Decimal(15))
    assert upper(await stall.bands_on(day(8))) == (Decimal(3), Decimal(5))


async def test_above_the_ladder_the_band_ends_with_a_reason(stall: Stall) -> None:
    await stall.make_bands(TODAY, report(YESTERDAY, "4", MILLION))
    await stall.make_bands(day(5), report(TODAY, "400", MILLION))
    band = (await stall.bands_on(day(5)))["m"]
    assert (band.low, band.high, band.reason) == (None, None, "above the last step, 100")
    assert band.trailing_7 == 202


async def test_they_wait_for_yesterdays_usage_but_not_beyond_six(stall: Stall) -> None:
    incomplete = report(YESTERDAY, "4", MILLION, usage_complete=False)
    for seconds in (0.0, 6 * 3600 - 0.001):
        stall.now = MIDNIGHT + seconds
        await stall.make_bands(TODAY, incomplete)
        assert await stall.rows() == []
    stall.now = MIDNIGHT + 6 * 3600
    await stall.make_bands(TODAY, incomplete)
    assert upper(await stall.bands_on(TODAY)) == (Decimal(3), Decimal(5))


async def test_without_the_meter_they_are_made_later(stall: Stall) -> None:
    stall.cache.refuses = True
    await stall.make_bands(TODAY, report(YESTERDAY, "4", MILLION))
    assert await stall.rows() == []
    stall.cache.refuses = False
    await stall.make_bands(TODAY)
    assert len(await stall.rows()) == 2


async def test_two_that_think_they_lead_make_one_list(stall: Stall) -> None:
    await stall.make_bands(TODAY, report(YESTERDAY, "4", MILLION))
    made = [
        BandBasis(band=msgspec.structs.replace((await stall.bands_on(TODAY))["m"], day=day(5), high=high), revisions={})
        for high in (Decimal(5), Decimal(7))
    ]
    added = await asyncio.gather(*(stall.book.add(day(5), [basis], stall.now) for basis in made))
    assert sorted(added) == [False, True]
    assert len([row for row in await stall.rows() if row.day == day(5)]) == 1


async def test_before_the_first_band_and_after_today_there_is_an_answer_too(stall: Stall) -> None:
    await stall.make_bands(TODAY, report(YESTERDAY, "4", MILLION))
    before = await stall.bands_on(YESTERDAY)
    assert {(band.high, band.reason) for band in before.values()} == {(None, "no band had been made by then")}
    for wrong, expected_reason in ((day(5), "in the future"), ("2026-02-29", "day: "), ("x", "day: ")):
        refused = decode(await stall.maker().answer(encode(BandsQuery(day=wrong))), ErrorReply)
        assert expected_reason in refused.reason


@dataclass
class KeyMeter:
    """Answers for one key's month; a query for anything else fails."""

    rows: list[TokensRow]
    complete: bool = True
    is_old: bool = False
    """Of the release before: it does not know `keys`."""
    queries: list[TokensQuery] = field(default_factory=list)

    async def answer(self, data: bytes) -> bytes:
        query = decode(data, TokensQuery)
        self.queries.append(query)
        assert (query.by[:3], query.key, query.busy) == (("day", "model", "outcome"), "k1", False)
        reasons = () if self.complete else ("it is not over",)
        tokens = Tokens(day=query.day, to=query.to, complete=self.complete, totals=TokenSums(), served=TokenSums())
        keys = () if self.is_old else query.keys
        return encode(msgspec.structs.replace(tokens, rows=tuple(self.rows), reasons=reasons, keys=keys))


def used(at: str, model: str, tokens: int, **more: str) -> TokensRow:
    dimensions = {"day": at, "model": model, "outcome": "completed", **more}
    return TokensRow(dimensions=dimensions, sums=TokenSums(prompt_tokens=tokens))


async def statement(stall: Stall, meter: KeyMeter, month: str, key: str = "k1", *others: str) -> bytes:
    bus = MemoryBus()
    await bus.respond("meter", subjects.METER_TOKENS, meter.answer)
    desk = Statements(MeterClient(bus), stall.book, lambda: {"k1": "Acme"})
    return await desk.answer(encode(StatementQuery(key_id=key, month=month, others=others)))


async def test_each_day_is_priced_by_the_band_in_force_on_it(stall: Stall) -> None:
    await stall.make_bands(TODAY, report(YESTERDAY, "4", MILLION))
    await stall.make_bands(day(20), report(day(19), "0.4", MILLION))
    await stall.make_bands(day(31), *(report(day(number), "40", MILLION) for number in range(24, 31)))
    await stall.make_bands(day(33), report(day(32), "400", MILLION))
    days = (YESTERDAY, TODAY, day(19), day(20), day(30), day(31))
    meter = KeyMeter([used(at, "m", 2 * MILLION) for at in days])
    monthly = decode(await statement(stall, meter, "2026-05"), Statement)
    assert (monthly.key_id, monthly.name) == ("k1", "Acme")
    assert [(line.day, line.usd_per_mtok, line.amount) for line in monthly.lines] == [
        (YESTERDAY, None, None),
        (TODAY, Decimal(5), Decimal(10)),
        (day(19), Decimal(5), Decimal(10)),
        (day(20), Decimal(3), Decimal(6)),
        (day(30), Decimal(3), Decimal(6)),
        (day(31), Decimal(50), Decimal(100)),
    ]
    assert (monthly.amount, monthly.tokens, monthly.complete) == (None, 12 * MILLION, True)
    assert [(query.day, query.to) for query in meter.queries] == [("2026-05-01", "2026-05-31")]
    june = decode(await statement(stall, KeyMeter([used(day(32), "m", MILLION)]), "2026-06"), Statement)
    assert (june.amount, june.lines[0].usd_per_mtok) == (Decimal(50), Decimal(50))


async def test_the_months_of_several_keys_are_one_answer(stall: Stall) -> None:
    await stall.make_bands(TODAY, report(YESTERDAY, "4", MILLION))
    rows = [used(TODAY, "m", MILLION, key="k1"), used(TODAY, "m", 2 * MILLION, key="k2")]
    both = decode(await statement(stall, KeyMeter(rows), "2026-05", "k1", "k2", "k3", "k2"), Statement)
    assert (both.key_id, both.amount, len(both.lines)) == ("k1", Decimal(5), 1)
    assert [(key.key_id, key.tokens, key.amount) for key in both.others] == [
        ("k2", 2 * MILLION, Decimal(10)),
        ("k3", 0, Decimal(0)),
    ]
    one = decode(await statement(stall, KeyMeter(rows[:1], is_old=True), "2026-05", "k1", "k2"), Statement)
    assert (one.amount, one.others) == (Decimal(5), ())


async def test_the_statement_of_an_open_month_is_marked_incomplete(stall: Stall) -> None:
    monthly = decode(await statement(stall, KeyMeter([], complete=False), "2026-05"), Statement)
    assert (monthly.complete, monthly.reasons, monthly.amount, monthly.lines) == (
        False,
        ("it is not over",),
        Decimal(0),
        (),
    )


@pytest.mark.parametrize(
    ("key", "month", "expected_reason"), [("", "2026-05", "key_id: "), ("k1", "2026-13", "month: ")]
)
async def test_a_bad_question_is_refused_by_its_field(stall: Stall, key: str, month: str, expected_reason: str) -> None:
    refused = decode(await statement(stall, KeyMeter([]), month, key), ErrorReply)
    assert refused.reason.startswith(expected_reason)
