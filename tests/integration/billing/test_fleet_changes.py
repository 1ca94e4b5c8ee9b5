"""A machine that is taken out of the configuration, or moved in it, keeps its past days."""

import operator
from decimal import Decimal
from functools import partial
from pathlib import Path

from services.billing.adapters.fleet_store import kept_fleets
from shared import database
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.messages.billing import DayReport, PeriodReport, ReportsQuery
from shared.messages.codec import decode, encode
from tests.integration.billing.billing_service import CONFIG, Billing, billing, configured, publish_transition
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import focus_csv

PRICED = CONFIG.replace(
    'name = "B"\nprovider = "static"\n', 'name = "B"\nprovider = "static"\nprice_per_hour = "1.29"\n'
)
WITHOUT_B = CONFIG.replace('[[tier]]\nname = "B"\nprovider = "static"\n', "").partition('[[machine]]\nid = "b-1"')[0]
RENAMED = WITHOUT_B.replace('"A"', '"C"').replace('"2.40"', '"9.99"').replace('"a-1"', '"c-1"')
USE_OF_B = {
    "ResourceId": "i-b",
    "ServiceCategory": "Compute",
    "BilledCost": "2.00",
    "ChargePeriodStart": "2026-05-03T01:00:00Z",
    "ChargePeriodEnd": "2026-05-03T02:00:00Z",
}


async def days(books: Billing) -> tuple[DayReport, DayReport]:
    """The day of the tests, and the one after it."""
    return await books.report(), await books.report("2026-05-04")


async def period(books: Billing) -> PeriodReport:
    query = encode(ReportsQuery(to="2026-05-04", days=2))
    return decode(await books.bus.request(subjects.BILLING_REPORTS, query, timeout=PATIENCE_SECONDS), PeriodReport)


def spends(report: DayReport) -> dict[str, Decimal | None]:
    return {tier.tier: tier.spend for tier in report.tiers}


async def test_a_past_day_keeps_the_machines_tiers_and_prices_of_its_time(tmp_path: Path, database_url: str) -> None:
    bus = MemoryBus()
    engine = database.create_engine(database_url)

    async def kept() -> int:
        async with database.read_transaction(engine) as connection:
            return len(await kept_fleets(connection))

    async with billing(tmp_path, configured(PRICED, database_url=database_url), bus) as (books, _):
        for machine in ("a-1", "b-1"):
            await publish_transition(bus, machine, 0, "ready")
            await publish_transition(bus, machine, 2, "asleep", "ready")
            await publish_transition(bus, machine, 30, "ready", "asleep")
            await publish_transition(bus, machine, 31, "asleep", "ready")
        await books.deliver(
            focus_csv(
                {**USE_OF_B, "ChargePeriodStart": "2026-05-03T00:00:00Z", "ChargePeriodEnd": "2026-05-03T01:00:00Z"}
            )
        )
        before = await until(
            lambda: days(books), lambda pair: spends(pair[1]) == {"A": Decimal("2.4"), "B": Decimal("1.29")}
        )
        assert spends(before[0]) == {"A": Decimal("4.8"), "B": Decimal("3.29")}
        await until(kept, lambda count: count == 1)
    for text in (WITHOUT_B, RENAMED):
        stored = await kept()
        async with billing(tmp_path, configured(text, database_url=database_url), bus) as (books, _):
            assert await days(books) == before
            await until(kept, partial(operator.lt, stored))
            assert await days(books) == before
            assert spends((await period(books)).days[-1]) == spends(before[1])
            if text == RENAMED:
                # A bill that comes only now takes the place of the estimate of its machine's hour.
                await books.deliver(focus_csv({**USE_OF_B, "BillingAccountId": "late"}))
                assert spends(await books.report()) == {"A": Decimal("4.8"), "B": Decimal(4)}
                assert (await period(books)).bills[0].machines == ("b-1",)
    await engine.dispose()
