"""Publication: each new revision once and whole, also where the process dies at any moment, and never another way."""

import asyncio
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.billing import wiring
from services.billing.adapters.export.report_files import render_files
from services.billing.app.report_cache import ReportCache
from services.billing.app.report_publisher import DAYS, RenderFiles, ReportPublisher
from services.billing.metrics import Metrics
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus, Received
from shared.bus.topology import BOOKS_FILES, REPORTS
from shared.errors import BusUnavailable
from shared.messages.billing import DayReport, Published
from shared.messages.codec import decode, encode
from tests.integration.billing.billing_service import billing, configured
from tests.integration.billing.fake_reports import TODAY, YESTERDAY, DyingBus, Killed, MadeUpShelf
from tests.kit.waiting import until
from tests.unit.billing.cost_row_builders import DAY_WINDOW, focus_csv
from tests.unit.billing.report_builders import day, report

FORMS = ("json", "csv", "xlsx", "html")
NOW = 1_777_852_800.0
MILLION = 1_000_000


class PublisherHarness:
    """A publisher and what it counts."""

    def __init__(self, bus: Bus, shelf: MadeUpShelf, forms: RenderFiles = render_files) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self._publisher = ReportPublisher(bus, cast("ReportCache", shelf), forms, metrics, now=lambda: NOW)

    async def publish(self) -> None:
        await self._publisher.publish_changed()

    def count(self, name: str) -> float:
        return self.registry.get_sample_value(f"spot_billing_{name}") or 0.0


@pytest.fixture
async def memory() -> DyingBus:
    made = DyingBus()
    await made.listen()
    return made


def figure(at: str = YESTERDAY, spend: str = "100.00", revision: int = 1, **more: Any) -> DayReport:
    return report(at, spend, 50 * MILLION, revision=revision, **more)


def names(told: DayReport) -> tuple[str, ...]:
    return tuple(f"{told.day}.{told.revision}.{form}" for form in FORMS)


async def test_a_days_report_is_stored_in_every_form_and_announced(memory: DyingBus) -> None:
    shelf, told = MadeUpShelf(), figure(change="the bill came")
    shelf.put(told)
    publisher = PublisherHarness(memory, shelf)
    await publisher.publish()
    assert memory.files() == dict(zip(names(told), render_files(told).values(), strict=True))
    published = Published(
        day=YESTERDAY,
        revision=1,
        state="provisional",
        usd_per_mtok=Decimal(2),
        change="the bill came",
        files=names(told),
        at=NOW,
    )
    assert memory.told == [published]
    assert await memory.said() == {f"published.{YESTERDAY}": published}
    assert (publisher.count("published_total"), publisher.count("publish_failures_total")) == (1, 0)
    assert publisher.count("published_until") == NOW


async def test_it_looks_at_two_months_yesterday_first_and_never_at_today(memory: DyingBus) -> None:
    shelf = MadeUpShelf()
    shelf.put(figure(TODAY), figure("2026-03-03"), figure("2026-03-02"))
    await PublisherHarness(memory, shelf).publish()
    assert (len(shelf.asked), shelf.asked[0], shelf.asked[-1]) == (DAYS, YESTERDAY, "2026-03-03")
    assert [told.day for told in memory.told] == ["2026-03-03"]


async def test_what_is_published_is_left_alone_until_its_revision_rises(memory: DyingBus) -> None:
    shelf, first = MadeUpShelf(), figure()
    shelf.put(first, figure(day(2)))
    publisher = PublisherHarness(memory, shelf)
    await publisher.publish()
    before, changes = memory.files(), memory.changes
    await publisher.publish()
    restarted = PublisherHarness(memory, shelf)
    await restarted.publish()
    assert (memory.files(), memory.changes) == (before, changes)
    assert restarted.count("published_until") == NOW
    second = figure(spend="90.00", revision=3, change="the bill changed", state="restated")
    shelf.put(second)
    await publisher.publish()
    assert memory.files() == {**before, **dict(zip(names(second), render_files(second).values(), strict=True))}
    assert [(told.day, told.revision, told.change) for told in memory.told[2:]] == [(YESTERDAY, 3, "the bill changed")]


CHANGES = len(FORMS) + 2
"""The files, the announcement, and the word that it is done."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dies_at", range(1, CHANGES + 1))
async def test_killed_at_any_moment_the_next_one_publishes_the_same_whole(dies_at: int, after: bool) -> None:
    bus = DyingBus(dies_at, after=after)
    await bus.listen()
    shelf, told = MadeUpShelf(), figure()
    shelf.put(told)
    with pytest.raises(Killed):
        await PublisherHarness(bus, shelf).publish()
    for published in [*bus.told, *(await bus.said()).values()]:
        assert set(published.files) <= set(bus.files()), "announced before it was there"
    bus.dies_at = None
    await PublisherHarness(bus, shelf).publish()
    assert bus.files() == dict(zip(names(told), render_files(told).values(), strict=True))
    assert {published.files for published in bus.told} == {names(told)}
    assert (await bus.said()).keys() == {f"published.{YESTERDAY}"}
    changes = bus.changes
    await PublisherHarness(bus, shelf).publish()
    assert bus.changes == changes


async def test_there_are_no_other_moments_to_die_at(memory: DyingBus) -> None:
    shelf = MadeUpShelf()
    shelf.put(figure())
    await PublisherHarness(memory, shelf).publish()
    assert memory.changes == CHANGES


async def test_killed_between_two_revisions_the_old_one_stays_as_it_was() -> None:
    bus = DyingBus()
    shelf, first = MadeUpShelf(), figure()
    shelf.put(first)
    await PublisherHarness(bus, shelf).publish()
    old = bus.files()
    shelf.put(figure(spend="90.00", revision=2))
    bus.dies_at = CHANGES + 3
    with pytest.raises(Killed):
        await PublisherHarness(bus, shelf).publish()
    assert {name: data for name, data in bus.files().items() if name in old} == old
    assert (await bus.said())[f"published.{YESTERDAY}"].revision == 1


async def test_two_that_think_they_lead_publish_the_same(memory: DyingBus) -> None:
    shelf, told = MadeUpShelf(), figure()
    shelf.put(told)
    await asyncio.gather(PublisherHarness(memory, shelf).publish(), PublisherHarness(memory, shelf).publish())
    assert memory.files() == dict(zip(names(told), render_files(told).values(), strict=True))
    assert {published.revision for published in memory.told} == {1}


async def test_a_file_that_lies_there_is_never_replaced(memory: DyingBus) -> None:
    """As after an upgrade between the file and the word: the page looks otherwise now."""
    shelf, told = MadeUpShelf(), figure()
    shelf.put(told)
    await memory.put_object(BOOKS_FILES, f"{YESTERDAY}.1.html", b"as it was")
    await PublisherHarness(memory, shelf).publish()
    assert memory.files()[f"{YESTERDAY}.1.html"] == b"as it was"
    assert len(memory.told) == 1


async def test_an_unknown_day_is_not_published_but_one_that_became_unknown_is(memory: DyingBus) -> None:
    shelf, unknown = MadeUpShelf(), report(YESTERDAY, None, MILLION)
    shelf.put(unknown)
    publisher = PublisherHarness(memory, shelf)
    await publisher.publish()
    assert (memory.files(), memory.told, publisher.count("published_until")) == ({}, [], 0)
    shelf.put(figure(revision=2))
    await publisher.publish()
    shelf.put(msgspec.structs.replace(unknown, revision=3, change="the bill changed"))
    await publisher.publish()
    assert [(told.revision, told.state, told.usd_per_mtok) for told in memory.told] == [
        (2, "provisional", Decimal(2)),
        (3, None, None),
    ]


@pytest.mark.parametrize("books_have", [figure(revision=2), figure(revision=5, spend="1.00")], ids=["older", "another"])
async def test_books_restored_from_a_copy_change_nothing_that_was_published(
    memory: DyingBus, books_have: DayReport
) -> None:
    shelf = MadeUpShelf()
    shelf.put(figure(revision=5))
    await PublisherHarness(memory, shelf).publish()
    before, changes = memory.files(), memory.changes
    shelf.put(books_have)
    publisher = PublisherHarness(memory, shelf)
    await publisher.publish()
    await publisher.publish()
    assert (memory.files(), memory.changes) == (before, changes)
    assert publisher.count("publish_failures_total") == 1
    shelf.put(figure(revision=6))
    await publisher.publish()
    assert [told.revision for told in memory.told] == [5, 6]


async def test_a_day_that_no_form_can_show_holds_up_no_other_and_is_tried_again(memory: DyingBus) -> None:
    shelf = MadeUpShelf()
    shelf.put(figure(), figure(day(2)), figure(day(1)))
    broken = True

    def forms(told: DayReport) -> dict[str, bytes]:
        if broken and told.day == day(2):
            raise ValueError("no such name")
        return {"json": encode(told)}

    publisher = PublisherHarness(memory, shelf, forms)
    await publisher.publish()
    assert [told.day for told in memory.told] == [YESTERDAY, day(1)]
    assert publisher.count("publish_failures_total") == 1
    broken = False
    await publisher.publish()
    assert [told.day for told in memory.told] == [YESTERDAY, day(1), day(2)]
    assert publisher.count("published_until") == NOW


async def test_a_meter_that_does_not_answer_is_counted_and_waited_for(memory: DyingBus) -> None:
    shelf = MadeUpShelf(refuses=True)
    shelf.put(figure())
    publisher = PublisherHarness(memory, shelf)
    await publisher.publish()
    assert (publisher.count("publish_failures_total"), memory.told) == (1, [])
    shelf.refuses = False
    await publisher.publish()
    assert len(memory.told) == 1


async def test_a_bus_that_is_away_is_told_to_the_caller_and_nothing_is_forgotten(memory: DyingBus) -> None:
    shelf = MadeUpShelf()
    shelf.put(figure())
    publisher = PublisherHarness(memory, shelf)
    memory.connected = False
    with pytest.raises(BusUnavailable):
        await publisher.publish()
    memory.connected = True
    await publisher.publish()
    assert len(memory.told) == 1


async def test_an_unreadable_word_is_written_again(memory: DyingBus) -> None:
    shelf = MadeUpShelf()
    shelf.put(figure())
    await memory.put(REPORTS, subjects.published_key(YESTERDAY), b"{}")
    await PublisherHarness(memory, shelf).publish()
    assert (await memory.said())[f"published.{YESTERDAY}"].revision == 1


async def test_on_a_real_bus_the_files_come_back_as_they_were(bus: JetStreamBus) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(message: Received) -> None:
        heard.put_nowait(message.data)

    await bus.subscribe(subjects.BILLING_PUBLISHED, hear)
    shelf, told = MadeUpShelf(), figure()
    shelf.put(told)
    await PublisherHarness(bus, shelf).publish()
    published = decode(await asyncio.wait_for(heard.get(), 30), Published)
    for name, content in zip(published.files, render_files(told).values(), strict=True):
        assert await bus.get_object(BOOKS_FILES, name) == content
    entry = await bus.get(REPORTS, subjects.published_key(YESTERDAY))
    assert entry is not None
    assert decode(entry.value, Published) == published
    await PublisherHarness(bus, shelf).publish()
    again = await bus.get(REPORTS, subjects.published_key(YESTERDAY))
    assert again is not None
    assert again.revision == entry.revision


async def test_the_leading_service_publishes_what_a_bill_changes(
    tmp_path: Path, memory: DyingBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "DAILY_SECONDS", 0.05)
    now = DAY_WINDOW.end / 1000 + 7 * 3600
    async with billing(tmp_path, configured(), memory, now=now) as (books, runtime):
        for amount in ("100.00", "90.00"):
            await books.deliver(focus_csv({"BilledCost": amount}))
            told = await until(memory.said, partial(costs, ratio=Decimal(amount) / 50))
            kept = await books.report()
            assert (kept.spend, kept.revision) == (Decimal(amount), told[f"published.{YESTERDAY}"].revision)
            name = f"{YESTERDAY}.{kept.revision}.json"
            assert Decimal(msgspec.json.decode(memory.files()[name])["spend"]) == Decimal(amount)
        assert runtime.health.faults() == {}


def costs(said: dict[str, Published], ratio: Decimal) -> bool:
    told = said.get(f"published.{YESTERDAY}")
    return told is not None and told.usd_per_mtok == ratio
