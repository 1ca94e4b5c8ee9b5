"""Every figure that is published of a month is the oracle's, computed in fractions from the facts alone."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest

from shared.bus.jetstream import JetStreamBus
from shared.messages.billing import Bands, DayReport, PeriodReport, Statement
from shared.messages.invoices import Invoices
from tests.books_proof.comparison import Comparison, days_tokens
from tests.books_proof.facts import DAY, World
from tests.books_proof.month import KEYS, NEXT, PERIOD, Month, any_month
from tests.books_proof.oracle import Books
from tests.books_proof.services import Suite, day_of, suite

MONTHS = (PERIOD, (NEXT, NEXT + DAY))
"""The month that is billed, and what there is of the next one."""


@dataclass(frozen=True)
class Published:
    """All that the services say of a world."""

    days: list[DayReport]
    period: PeriodReport
    invoices: Invoices
    bands: Bands
    explained: DayReport
    """The first day, with what its figures are made of."""
    statements: list[Statement]


async def feed(running: Suite, world: World) -> None:
    """Tell the services of a world, in its order."""
    await running.publish_journal(world.moves, {machine.id: machine.tier for machine in world.machines})
    await running.publish_usage(world.uses)
    for delivery in world.deliveries:
        await running.deliver(delivery)
    for payable in world.payables:
        await running.note(payable)


async def ask(running: Suite, days: int) -> Published:
    """Ask for every figure of the last days of the month, and of what follows from them."""
    reports = [await running.day(day_of(NEXT - back * DAY)) for back in range(days, 0, -1)]
    period = await running.period(day_of(NEXT - DAY), days)
    await running.make_bands()
    return Published(
        days=reports,
        period=period,
        invoices=await running.invoices(),
        bands=await running.bands(day_of(NEXT)),
        explained=await running.day(reports[0].day, explain=True),
        statements=[await running.statement(key, day_of(start)[:7]) for key in KEYS for start, _ in MONTHS],
    )


def compare(published: Published, world: World) -> int:
    """Compare them all with the oracle's. How many there were."""
    comparison, books = Comparison(), Books(world)
    days = [books.day(NEXT - back * DAY) for back in range(len(published.days), 0, -1)]
    for report, day in zip(published.days, days, strict=True):
        comparison.day(report, day)
    comparison.period(published.period, published.days, days_tokens(days))
    comparison.conserved(published.days, days)
    comparison.bills(published.period, days)
    comparison.explanations(published.explained, days[0])
    comparison.invoices(published.invoices, books)
    comparison.bands(published.bands, books, NEXT)
    for number, statement in enumerate(published.statements):
        comparison.statement(statement, books, published.bands, MONTHS[number % len(MONTHS)])
    differing = "\n".join(comparison.differences[:60])
    assert not comparison.differences, (
        f"{len(comparison.differences)} of {comparison.compared} figures differ:\n{differing}"
    )
    return comparison.compared


async def test_figures_of_a_week_are_the_oracles(tmp_path: Path) -> None:
    month = Month(
        seed=1, requests=300, days=7, unbilled=1, gaps=True, open_sources=("hyperstack",), disputed=("azure",)
    )
    world = month.world()
    async with suite(world, tmp_path) as running:
        await feed(running, world)
        published = await ask(running, month.days)
    assert compare(published, world) > 600


@pytest.mark.long
@pytest.mark.parametrize(
    "month",
    [
        Month(seed=2, requests=20_000, repeats=True, open_sources=("hyperstack",)),
        Month(seed=3, requests=2_000, priced=("g6e",), gaps=True),
        Month(seed=4, requests=2_000, priced=("h100x2", "a100x2", "g6e"), vendors=("aws", "cur", "azure", "plain")),
        Month(seed=5, requests=500, priced=("g6e",), gaps=True, open_sources=("aws",)),
        Month(seed=6, requests=500, vendors=("azure", "google", "plain"), unbilled=9, open_sources=("hyperstack",)),
    ],
    ids=lambda month: f"seed {month.seed}",
)
async def test_figures_of_a_month_are_the_oracles(month: Month, tmp_path: Path, database_url: str) -> None:
    world = month.world()
    async with suite(world, tmp_path, database_url) as running:
        await feed(running, world)
        published = await ask(running, month.days)
    assert compare(published, world) > 1_000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 108))
async def test_figures_of_any_days_are_the_oracles(seed: int, tmp_path: Path) -> None:
    month = any_month(seed)
    world = month.world()
    async with suite(world, tmp_path) as running:
        await feed(running, world)
        published = await ask(running, month.days)
    compare(published, world)


@pytest.mark.long
async def test_only_the_day_of_a_new_row_gets_a_revision(tmp_path: Path) -> None:
    """The same rows in another order change nothing, a row more changes its own day, by that row."""
    month = Month(seed=7, requests=300, days=7)
    world = month.world()
    bill = next(delivery for delivery in world.deliveries if delivery.vendor == "aws")
    added = replace(next(row for row in bill.rows if row.service == "Networking"), billed=Fraction("7.25"))
    more = replace(bill, rows=(*bill.rows, added))
    async with suite(world, tmp_path) as running:
        await feed(running, world)
        first = (await ask(running, month.days)).days
        assert {day.state for day in first} == {"final", "provisional"}
        await running.deliver(replace(bill, rows=bill.rows[::-1]))
        assert [await running.day(day.day) for day in first] == first
        await running.deliver(more)
        after = [await running.day(day.day) for day in first]
    (moved,) = [new for new, old in zip(after, first, strict=True) if new.revision != old.revision]
    assert (moved.day, moved.state, moved.revision) == (day_of(added.start), "restated", 2)
    assert "+7.25" in (moved.change or "")
    books, comparison = Books(replace(world, deliveries=(*world.deliveries, more))), Comparison()
    for report in after:
        figures = books.day(NEXT - (month.days - after.index(report)) * DAY)
        figures.state = "restated" if report is moved else first[after.index(report)].state or ""
        comparison.day(report, figures)
    assert not comparison.differences, comparison.differences


@pytest.mark.long
async def test_figures_over_a_real_bus_are_the_oracles(tmp_path: Path, bus: JetStreamBus) -> None:
    month = Month(seed=8, requests=5_000, repeats=True, unbilled=4, open_sources=("hyperstack",))
    world = month.world()
    async with suite(world, tmp_path, bus=bus) as running:
        await feed(running, world)
        published = await ask(running, month.days)
    assert compare(published, world) > 1_000
