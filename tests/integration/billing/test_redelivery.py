"""A month that is delivered again: only days whose charges changed have a revision for it. On both databases."""

import hashlib
import json
import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from shared.bus import subjects, topology
from shared.messages.billing import DayReport, Published
from shared.messages.codec import encode
from shared.messages.invoices import DeliveredFile, ImportAnswer, ImportRequest, PayableNote
from tests.integration.billing.billing_service import Billing, billing, configured
from tests.kit.waiting import PATIENCE_SECONDS
from tests.unit.billing.cost_row_builders import focus_csv

SEED = 20
"""Of the month's charges, of their orders and of what changes: a failure comes again."""
DAYS = [f"2026-05-{day:02}" for day in (1, 2, 3, 4, 10)]
Row = dict[str, str]


@pytest.fixture
async def books(tmp_path: Path, books_url: str) -> AsyncIterator[Billing]:
    async with billing(tmp_path, configured(database_url=books_url)) as (service, _):
        yield service


def on(first: int, last: int | None = None, **more: str) -> Row:
    """A charge from the beginning of a day of May to the end of the last one."""
    period = {"ChargePeriodStart": f"2026-05-{first:02}T00:00:00Z"}
    return {**period, "ChargePeriodEnd": f"2026-05-{(last or first) + 1:02}T00:00:00Z", "InvoiceId": "MAY-1", **more}


async def deliver(books: Billing, rows: Sequence[Row], name: str, files: int = 1) -> None:
    """Everything of the month, in some files."""
    parts = [focus_csv(*rows[number::files]) for number in range(files)]
    delivered = [
        DeliveredFile(name=f"{name}-{n}.csv", sha256=await stored(books, part)) for n, part in enumerate(parts)
    ]
    request = encode(ImportRequest(source="cloud", files=tuple(delivered)))
    answer = msgspec.json.decode(
        await books.bus.request(subjects.BILLING_IMPORT, request, timeout=PATIENCE_SECONDS), type=ImportAnswer
    )
    assert not answer.refusals


async def stored(books: Billing, data: bytes) -> str:
    name = hashlib.sha256(data).hexdigest()
    await books.bus.put_object(topology.INVOICES, name, data)
    return name


async def reports(books: Billing) -> dict[str, DayReport]:
    return {day: await books.report(day) for day in DAYS}


def moved(before: dict[str, DayReport], after: dict[str, DayReport]) -> set[str]:
    """The days with another revision. One that has none is the same in every field."""
    return {day for day in DAYS if after[day] != before[day] and after[day].revision == before[day].revision + 1}


async def test_case_04_only_the_day_whose_charges_changed_is_restated(books: Billing) -> None:
    rows = [on(day, BilledCost=str(day), ResourceId=name) for day in range(1, 12) for name in ("i-a", "vol-x", "NULL")]
    await deliver(books, rows, "may")
    total = sum((Decimal(row["BilledCost"]) for row in rows), Decimal(0))
    note = PayableNote(source="cloud", invoice_id="MAY-1", amount=total)
    await books.bus.request(subjects.BILLING_PAYABLE, encode(note), timeout=PATIENCE_SECONDS)
    final = await reports(books)
    assert {report.state for report in final.values()} == {"final"}
    await deliver(books, rows[::-1], "again", files=3)
    assert await reports(books) == final
    await deliver(books, [*rows, on(10, BilledCost="11.50")], "may-2")
    after = await reports(books)
    assert [day for day in DAYS if after[day] != final[day]] == ["2026-05-10"]
    tenth = after["2026-05-10"]
    assert (tenth.state, tenth.revision) == ("restated", 2)
    assert tenth.change == (
        "spend 30.00 → 41.50 USD (+11.50): charges of source cloud, file may-2-0.csv (1 row added, +11.50)"
    )
    assert tenth.sources[0].startswith("may-2-0.csv from cloud, ")
    assert after["2026-05-04"].sources[0].startswith("may-0.csv from cloud, ")


async def test_charges_in_any_order_and_files_are_the_same_and_a_changed_one_concerns_its_days(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        await shuffle_and_change(books, random.Random(SEED))


async def shuffle_and_change(books: Billing, rng: random.Random) -> None:
    rows = [some_charge(rng) for _ in range(30)]
    await deliver(books, rows, "first")
    before = await reports(books)
    for turn in range(2):
        rng.shuffle(rows)
        await deliver(books, rows, f"shuffled-{turn}", files=rng.randint(1, 4))
        assert await reports(books) == before
        place = rng.randrange(len(rows))
        row = rows[place]
        change = rng.choice([{"BilledCost": "7.77"}, {"Tags": f'{{"team": "{turn}"}}'}, {"ResourceId": "i-b"}])
        rows[place] = {**row, **change}
        await deliver(books, rows, f"changed-{turn}", files=rng.randint(1, 2))
        after = await reports(books)
        touched = {day for day in DAYS if row["ChargePeriodStart"] < f"{day}T23" < row["ChargePeriodEnd"]}
        assert moved(before, after) == touched == {day for day in DAYS if after[day] != before[day]}
        assert all(after[day].change for day in moved(before, after))
        before = after


def some_charge(rng: random.Random) -> Row:
    first = rng.randint(1, 4)
    return on(
        first,
        first + rng.choice([0, 0, 0, 2, 9]),
        BilledCost=f"{rng.randint(-(10**6), 10**7) / 10**4:.4f}",
        ResourceId=rng.choice(["i-a", "vol-a", "vol-x", "NULL"]),
        ServiceCategory=rng.choice(["Compute", "Storage", "Networking"]),
        Tags=rng.choice(["", '{"tier": "B", "a": "1"}', '{"a":"1","tier":"B"}']),
    )


async def test_books_restored_from_an_older_copy_go_on_above_what_was_published(tmp_path: Path) -> None:
    day = "2026-05-03"
    published = Published(day=day, revision=7, state="final", usd_per_mtok=Decimal(2), change=None, files=(), at=0.0)
    async with billing(tmp_path, configured()) as (books, _):
        await deliver(books, [on(3)], "may")
        await books.report(day)
        await books.bus.put(topology.REPORTS, subjects.published_key(day), encode(published))
        assert (await books.report(day)).revision == 1
        await deliver(books, [on(3, BilledCost="100.00")], "may-2")
        assert (await books.report(day)).revision == 8


async def test_a_report_that_an_older_version_kept_stays_as_it_is_until_a_figure_changes(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        await deliver(books, [on(3), on(4)], "may")
        first = await reports(books)
    forget(tmp_path / "books.sqlite")
    async with billing(tmp_path, configured()) as (books, _):
        before = await reports(books)
        assert before == {day: msgspec.structs.replace(report, hours=()) for day, report in first.items()}
        await deliver(books, [on(4), on(3)], "again")
        assert await reports(books) == before
        await deliver(books, [on(3), on(3), on(4)], "more")
        after = await reports(books)
    assert moved(before, after) == {"2026-05-03"}
    assert after["2026-05-03"].change == (
        "spend 1.00 → 2.00 USD (+1.00): charges of source cloud, file more-0.csv (1 row added)"
    )


def forget(books: Path) -> None:
    """Leave of the stored reports what version 0.1 kept, which knew neither these inputs nor these figures."""
    connection = sqlite3.connect(books)
    for day, kept, made_from in connection.execute("SELECT day, report, inputs FROM revisions").fetchall():
        report = {k: v for k, v in json.loads(kept).items() if k not in {"hours", "explanations", "failed"}}
        inputs = {k: v for k, v in json.loads(made_from).items() if k not in {"sources", "estimate", "settings"}}
        values = (json.dumps(report), json.dumps(inputs), day)
        connection.execute("UPDATE revisions SET report = ?, inputs = ? WHERE day = ?", values)
    connection.commit()
    connection.close()
