"""A month that is delivered again: only days whose charges changed have a revision for it. On both databases."""

import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from shared.bus import subjects, topology
from shared.messages.billing import DayReport
from shared.messages.codec import encode
from shared.messages.invoices import DeliveredFile, ImportAnswer, ImportRequest, PayableNote
from tests.integration.billing.kit import Billing, billing, configured
from tests.unit.billing.kit import focus_csv

SEED = 20
"""Of the month's charges, of their orders and of what changes: a failure comes again."""
DAYS = [f"2026-05-{day:02}" for day in range(1, 13)]
Row = dict[str, str]


@pytest.fixture
async def books(tmp_path: Path, database_url: str) -> AsyncIterator[Billing]:
    async with billing(tmp_path, configured(database_url=database_url)) as (service, _):
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
        await books.bus.request(subjects.BILLING_IMPORT, request, timeout=60), type=ImportAnswer
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
    rows = [on(day, BilledCost=str(day), ResourceId=name) for day in range(1, 13) for name in ("i-a", "vol-x", "NULL")]
    await deliver(books, rows, "may")
    total = sum((Decimal(row["BilledCost"]) for row in rows), Decimal(0))
    note = PayableNote(source="cloud", invoice_id="MAY-1", amount=total)
    await books.bus.request(subjects.BILLING_PAYABLE, encode(note), timeout=30)
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
    assert after["2026-05-09"].sources[0].startswith("may-0.csv from cloud, ")


async def test_charges_in_any_order_and_files_are_the_same_and_a_changed_one_concerns_its_days(books: Billing) -> None:
    rng = random.Random(SEED)
    rows = [some_charge(rng) for _ in range(60)]
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
        first, last = int(row["ChargePeriodStart"][8:10]), int(row["ChargePeriodEnd"][8:10])
        assert moved(before, after) == set(DAYS[first - 1 : last - 1]) == {d for d in DAYS if after[d] != before[d]}
        assert all(after[day].change for day in moved(before, after))
        before = after


def some_charge(rng: random.Random) -> Row:
    first = rng.randint(1, 12)
    return on(
        first,
        min(12, first + rng.choice([0, 0, 0, 4])),
        BilledCost=f"{rng.randint(-(10**6), 10**7) / 10**4:.4f}",
        ResourceId=rng.choice(["i-a", "vol-a", "vol-x", "NULL"]),
        ServiceCategory=rng.choice(["Compute", "Storage", "Networking"]),
        Tags=rng.choice(["", '{"tier": "B", "a": "1"}', '{"a":"1","tier":"B"}']),
    )
