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
from tests.integration.billing.fake_reports import TODAY, YESTERDAY, DyingBus, FakeReportCache, Killed
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import DAY_WINDOW, focus_csv
from tests.unit.billing.report_builders import day, report

FORMS = ("json", "csv", "xlsx", "html")
NOW = 1_777_852_800.0
MILLION = 1_000_000


class PublisherHarness:
    """A publisher and what it counts."""

    def __init__(self, bus: Bus, cache: FakeReportCache, forms: RenderFiles = render_files) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self._publisher = ReportPublisher(bus, cast("ReportCache", cache), forms, metrics, now=lambda: NOW)

    async def publish(self) -> None:
        await self._publisher.publish_changed()

    def count(self, name: str) -> float:
        return self.registry.get_sample_value(f"spot_billing_{name}") or 0.0


@pytest.fixture
async def memory() -> DyingBus:
    expected = DyingBus()
    await expected.subscribe_announcements()
    return expected


def figure(at: str = YESTERDAY, spend: str = "100.00", revision: int = 1, **more: Any) -> DayReport:
    return report(at, spend, 50 * MILLION, revision=revision, **more)


def names(expected: DayReport) -> tuple[str, ...]:
    return tuple(f"{expected.day}.{expected.revision}.{form}" for form in FORMS)


async def test_a_days_report_is_stored_in_every_form_and_announced(memory: DyingBus) -> None:
    cache, expected = FakeReportCache(), figure(change="the bill came")
    cache.put(expected)
    publisher = PublisherHarness(memory, cache)
    await publisher.publish()
    assert memory.files() == dict(zip(names(expected), render_files(expected).values(), strict=True))
    published = Published(
        day=YESTERDAY,
        revision=1,
        state="provisional",
        usd_per_mtok=Decimal(2),
        change="the bill came",
        files=names(expected),
        at=NOW,
    )
    assert memory.announced == [published]
    assert await memory.published_by_key() == {f"published.{YESTERDAY}": published}
    assert (publisher.count("published_total"), publisher.count("publish_failures_total")) == (1, 0)


async def test_it_publishes_two_months_newest_first_without_today(memory: DyingBus) -> None:
    cache = FakeReportCache()
    cache.put(figure(TODAY), figure("2026-03-03"), figure("2026-03-02"))
    await PublisherHarness(memory, cache).publish()
    assert (len(cache.requested_days), cache.requested_days[0], cache.requested_days[-1]) == (
        DAYS,
        YESTERDAY,
        "2026-03-03",
    )
    assert [one.day for one in memory.announced] == ["2026-03-03"]


async def test_what_is_published_is_left_alone_until_its_revision_rises(memory: DyingBus) -> None:
    cache, first = FakeReportCache(), figure()
    cache.put(first, figure(day(2)))
    publisher = PublisherHarness(memory, cache)
    await publisher.publish()
    before, changes = memory.files(), memory.changes
    await publisher.publish()
    restarted = PublisherHarness(memory, cache)
    await restarted.publish()
    assert (memory.files(), memory.changes) == (before, changes)
    second = figure(spend="90.00", revision=3, change="the bill changed", state="restated")
    cache.put(second)
    await publisher.publish()
    assert memory.files() == {**before, **dict(zip(names(second), render_files(second).values(), strict=True))}
    assert [(one.day, one.revision, one.change) for one in memory.announced[2:]] == [(YESTERDAY, 3, "the bill changed")]


CHANGES = len(FORMS) + 2
"""The files, the announcement, and the word that it is done."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dies_at", range(1, CHANGES + 1))
async def test_killed_at_any_moment_the_next_one_publishes_the_same_whole(dies_at: int, after: bool) -> None:
    bus = DyingBus(dies_at, after=after)
    await bus.subscribe_announcements()
    cache, expected = FakeReportCache(), figure()
    cache.put(expected)
    with pytest.raises(Killed):
        await PublisherHarness(bus, cache).publish()
    for published in [*bus.announced, *(await bus.published_by_key()).values()]:
        assert set(published.files) <= set(bus.files()), "announced before it was there"
    bus.dies_at = None
    await PublisherHarness(bus, cache).publish()
    assert bus.files() == dict(zip(names(expected), render_files(expected).values(), strict=True))
    assert {published.files for published in bus.announced} == {names(expected)}
    assert (await bus.published_by_key()).keys() == {f"published.{YESTERDAY}"}
    changes = bus.changes
    await PublisherHarness(bus, cache).publish()
    assert bus.changes == changes


async def test_there_are_no_other_moments_to_die_at(memory: DyingBus) -> None:
    cache = FakeReportCache()
    cache.put(figure())
    await PublisherHarness(memory, cache).publish()
    assert memory.changes == CHANGES


async def test_killed_between_two_revisions_the_old_one_stays_as_it_was() -> None:
    bus = DyingBus()
    cache, first = FakeReportCache(), figure()
    cache.put(first)
    await PublisherHarness(bus, cache).publish()
    old = bus.files()
    cache.put(figure(spend="90.00", revision=2))
    bus.dies_at = CHANGES + 3
    with pytest.raises(Killed):
        await PublisherHarness(bus, cache).publish()
    assert {name: data for name, data in bus.files().items() if name in old} == old
    assert (await bus.published_by_key())[f"published.{YESTERDAY}"].revision == 1


async def test_two_that_think_they_lead_publish_the_same(memory: DyingBus) -> None:
    cache, expected = FakeReportCache(), figure()
    cache.put(expected)
    await asyncio.gather(PublisherHarness(memory, cache).publish(), PublisherHarness(memory, cache).publish())
    assert memory.files() == dict(zip(names(expected), render_files(expected).values(), strict=True))
    assert {published.revision for published in memory.announced} == {1}


async def test_a_file_that_lies_there_is_never_replaced(memory: DyingBus) -> None:
    """As after an upgrade between the file and the word: the page looks otherwise now."""
    cache, expected = FakeReportCache(), figure()
    cache.put(expected)
    await memory.put_object(BOOKS_FILES, f"{YESTERDAY}.1.html", b"as it was")
    await PublisherHarness(memory, cache).publish()
    assert memory.files()[f"{YESTERDAY}.1.html"] == b"as it was"
    assert len(memory.announced) == 1


async def test_an_unknown_day_is_not_published_but_one_that_became_unknown_is(memory: DyingBus) -> None:
    cache, unknown = FakeReportCache(), report(YESTERDAY, None, MILLION)
    cache.put(unknown)
    publisher = PublisherHarness(memory, cache)
    await publisher.publish()
    assert (memory.files(), memory.announced) == ({}, [])
    cache.put(figure(revision=2))
    await publisher.publish()
    cache.put(msgspec.structs.replace(unknown, revision=3, change="the bill changed"))
    await publisher.publish()
    assert [(one.revision, one.state, one.usd_per_mtok) for one in memory.announced] == [
        (2, "provisional", Decimal(2)),
        (3, None, None),
    ]


@pytest.mark.parametrize("books_have", [figure(revision=2), figure(revision=5, spend="1.00")], ids=["older", "another"])
async def test_books_restored_from_a_copy_change_nothing_that_was_published(
    memory: DyingBus, books_have: DayReport
) -> None:
    cache = FakeReportCache()
    cache.put(figure(revision=5))
    await PublisherHarness(memory, cache).publish()
    before, changes = memory.files(), memory.changes
    cache.put(books_have)
    publisher = PublisherHarness(memory, cache)
    await publisher.publish()
    await publisher.publish()
    assert (memory.files(), memory.changes) == (before, changes)
    assert publisher.count("publish_failures_total") == 1
    cache.put(figure(revision=6))
    await publisher.publish()
    assert [one.revision for one in memory.announced] == [5, 6]


async def test_a_day_that_no_form_can_show_holds_up_no_other_and_is_tried_again(memory: DyingBus) -> None:
    cache = FakeReportCache()
    cache.put(figure(), figure(day(2)), figure(day(1)))
    broken = True

    def forms(expected: DayReport) -> dict[str, bytes]:
        if broken and expected.day == day(2):
            raise ValueError("no such name")
        return {"json": encode(expected)}

    publisher = PublisherHarness(memory, cache, forms)
    await publisher.publish()
    assert [one.day for one in memory.announced] == [YESTERDAY, day(1)]
    assert publisher.count("publish_failures_total") == 1
    broken = False
    await publisher.publish()
    assert [one.day for one in memory.announced] == [YESTERDAY, day(1), day(2)]


async def test_a_meter_that_does_not_answer_is_counted_and_waited_for(memory: DyingBus) -> None:
    cache = FakeReportCache(refuses=True)
    cache.put(figure())
    publisher = PublisherHarness(memory, cache)
    await publisher.publish()
    assert (publisher.count("publish_failures_total"), memory.announced) == (1, [])
    cache.refuses = False
    await publisher.publish()
    assert len(memory.announced) == 1


async def test_an_unavailable_bus_raises_and_the_report_is_published_later(memory: DyingBus) -> None:
    cache = FakeReportCache()
    cache.put(figure())
    publisher = PublisherHarness(memory, cache)
    memory.connected = False
    with pytest.raises(BusUnavailable):
        await publisher.publish()
    memory.connected = True
    await publisher.publish()
    assert len(memory.announced) == 1


async def test_an_unreadable_word_is_written_again(memory: DyingBus) -> None:
    cache = FakeReportCache()
    cache.put(figure())
    await memory.put(REPORTS, subjects.published_key(YESTERDAY), b"{}")
    await PublisherHarness(memory, cache).publish()
    assert (await memory.published_by_key())[f"published.{YESTERDAY}"].revision == 1


async def test_on_a_real_bus_the_files_come_back_as_they_were(bus: JetStreamBus) -> None:
    on_published: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_message(message: Received) -> None:
        on_published.put_nowait(message.data)

    await bus.subscribe(subjects.BILLING_PUBLISHED, on_message)
    cache, expected = FakeReportCache(), figure()
    cache.put(expected)
    await PublisherHarness(bus, cache).publish()
    published = decode(await asyncio.wait_for(on_published.get(), PATIENCE_SECONDS), Published)
    for name, content in zip(published.files, render_files(expected).values(), strict=True):
        assert await bus.get_object(BOOKS_FILES, name) == content
    entry = await bus.get(REPORTS, subjects.published_key(YESTERDAY))
    assert entry is not None
    assert decode(entry.value, Published) == published
    await PublisherHarness(bus, cache).publish()
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
            expected = await until(memory.published_by_key, partial(costs, ratio=Decimal(amount) / 50))
            kept = await books.report()
            assert (kept.spend, kept.revision) == (Decimal(amount), expected[f"published.{YESTERDAY}"].revision)
            name = f"{YESTERDAY}.{kept.revision}.json"
            assert Decimal(msgspec.json.decode(memory.files()[name])["spend"]) == Decimal(amount)
        assert runtime.health.faults() == {}


def costs(published_by_key: dict[str, Published], ratio: Decimal) -> bool:
    published = published_by_key.get(f"published.{YESTERDAY}")
    return published is not None and published.usd_per_mtok == ratio
