"""A provider's running bill in the books, from a pretended Hyperstack, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.accrual_store import SqlAccrualStore, accrued_in
from services.billing.adapters.hyperstack_bill import PAGE_SIZE, HyperstackBill
from services.billing.adapters.schema import MIGRATIONS
from services.billing.adapters.transition_store import SqlTransitionStore
from services.billing.app.running_bill import RunningBillPoller
from services.billing.core.allocation.accrual import Accrual, BillReading
from services.billing.core.money import to_usd
from services.billing.core.utc_time import Window
from services.billing.metrics import Metrics
from shared import database
from shared.clouds.hyperstack import HyperstackAccount, HyperstackError
from shared.clouds.throttle import Throttle
from shared.messages.waker import MachineState, Transition
from shared.units import HOUR_MS
from tests.kit.hyperstack_cloud import HyperstackCloud, Trouble, hyperstack_cloud
from tests.kit.hyperstack_machines import FakeVm
from tests.unit.billing.cost_row_builders import DAY_WINDOW

MIDNIGHT = DAY_WINDOW.start / 1000
HISTORY = "billing"


@dataclass
class Desk:
    """A cloud with one machine, `m1`, and what reads its bill by a clock that the test moves."""

    cloud: HyperstackCloud
    vm: FakeVm
    engine: AsyncEngine
    registry: CollectorRegistry
    bills: RunningBillPoller
    bill: HyperstackBill
    hours: float = 0.0

    def clock(self) -> float:
        return MIDNIGHT + self.hours * 3600

    async def read(self, at: float) -> None:
        self.hours = at
        await self.bills.poll()

    async def accrued(self) -> dict[float, Decimal]:
        """By the hour of the test's day."""
        return {(a.hour - DAY_WINDOW.start) / HOUR_MS: to_usd(a.amount) for a in await self.rows()}

    async def rows(self) -> list[Accrual]:
        async with database.read_transaction(self.engine) as connection:
            return await accrued_in(connection, Window(DAY_WINDOW.start - 24 * HOUR_MS, DAY_WINDOW.end + 24 * HOUR_MS))

    def failed(self) -> float:
        labels = {"provider": "hyperstack", "outcome": "failed"}
        return self.registry.get_sample_value("spot_billing_bill_readings_total", labels) or 0

    def anew(self, *, priced: bool = False) -> None:
        """Another leader."""
        self.registry = CollectorRegistry()
        self.bills = RunningBillPoller(
            self.bill,
            SqlAccrualStore(self.engine),
            {str(self.vm.id): "m1"},
            frozenset({"m1"} if priced else ()),
            Metrics(self.registry),
            now=self.clock,
        )


@pytest.fixture
async def desk(tmp_path: Path, books_url: str) -> AsyncIterator[Desk]:
    del tmp_path
    place: list[Desk] = []
    async with (
        hyperstack_cloud(clock=lambda: place[0].clock() if place else MIDNIGHT) as cloud,
        database.migrated_engine(books_url, MIGRATIONS, version_table="books_version") as engine,
    ):
        cloud.limit = 10**6
        bill = HyperstackBill(HyperstackAccount(cloud.base_url, cloud.key, Throttle(100_000)))
        registry = CollectorRegistry()
        made = Desk(cloud, cloud.add("ACTIVE"), engine, registry, None, bill)  # type: ignore[arg-type]  # `anew` makes it
        place.append(made)
        made.anew()
        yield made
        await bill.close()


async def test_a_window_costs_what_the_bill_rose(desk: Desk) -> None:
    desk.vm.since = MIDNIGHT - 100 * 3600  # what it cost before anybody read it belongs to nobody's day
    await desk.read(1.25)
    for minute in range(1, 31):
        await desk.read(1.25 + minute / 60)
    assert await desk.accrued() == {1: Decimal("2.5")}
    (row,) = await desk.rows()
    assert (row.machine, row.since, row.through) == (
        "m1",
        DAY_WINDOW.start + round(1.25 * HOUR_MS),
        DAY_WINDOW.start + round(1.75 * HOUR_MS),
    )


async def test_what_happened_while_nobody_read_is_spread_over_the_machines_billable_time(desk: Desk) -> None:
    for at, state in ((-1.0, "asleep"), (2.0, "ready"), (3.0, "asleep")):
        await SqlTransitionStore(desk.engine).record([_moved(at, state)])  # type: ignore[arg-type]  # literals in a tuple
    desk.vm.status = "ERROR"  # free
    await desk.read(0.0)
    desk.vm.become("ACTIVE", MIDNIGHT + 2 * 3600)
    desk.vm.become("ERROR", MIDNIGHT + 3 * 3600)
    await desk.read(5.0)
    assert await desk.accrued() == {0: 0, 1: 0, 2: 5, 3: 0, 4: 0}


async def test_without_a_journal_it_is_spread_over_the_time(desk: Desk) -> None:
    await desk.read(22.5)
    desk.anew()  # the one who read first is gone
    await desk.read(25.0)
    assert await desk.accrued() == {22: Decimal("2.5"), 23: 5, 24: 5}


async def test_a_reading_that_fails_leaves_what_was_known_and_the_next_makes_up_for_it(desk: Desk) -> None:
    await desk.read(1.0)
    await desk.read(1.1)
    known = await desk.accrued()
    for trouble in (
        Trouble(429, "Too Many Requests"),
        Trouble(500, "oops"),
        Trouble(),
        Trouble(200, body=b"<html>"),
        Trouble(200, body=b'{"status": false, "message": "later"}'),
        Trouble(200, body=_listing('{"incurred_bill": -1}', desk.vm.id)),
        Trouble(200, body=_listing('{"incurred_bill": "NaN"}', desk.vm.id)),
        Trouble(200, body=_listing('{"incurred_bill": 1e400}', desk.vm.id)),
    ):
        desk.cloud.fail(HISTORY, trouble)
        await desk.read(1.2)
        assert await desk.accrued() == known, trouble
    assert desk.failed() == 8
    await desk.read(1.5)
    assert await desk.accrued() == {1: Decimal("2.5")}


async def test_too_many_calls_make_a_pause(desk: Desk) -> None:
    await desk.read(1.0)
    calls = desk.cloud.calls[HISTORY]
    desk.cloud.fail(HISTORY, Trouble(429, "Too Many Requests"))
    await desk.read(1.1)
    began = asyncio.get_running_loop().time()
    await desk.read(1.2)
    assert asyncio.get_running_loop().time() - began >= 0.9, "the account pauses for a second first"
    assert desk.cloud.calls[HISTORY] == calls + 2
    assert await desk.accrued() == {1: Decimal(1)}


async def test_a_bill_that_begins_anew_counts_whole_once_it_is_certain(desk: Desk) -> None:
    await desk.read(1.0)
    await desk.read(2.0)
    assert await desk.accrued() == {1: 5}
    desk.vm.since = MIDNIGHT + 2 * 3600
    await desk.read(2.5)
    assert await desk.accrued() == {1: 5}, "it may be an old answer"
    await desk.read(3.0)
    assert await desk.accrued() == {1: 5, 2: 5}


async def test_an_old_answer_is_not_taken_for_a_new_bill(desk: Desk) -> None:
    await desk.read(1.0)
    await desk.read(2.0)
    desk.cloud.fail(HISTORY, Trouble(200, body=_listing('{"incurred_bill": 7.5}', desk.vm.id)))
    await desk.read(2.5)
    await desk.read(3.0)
    assert await desk.accrued() == {1: 5, 2: 5}


async def test_every_page_is_read_and_every_digit_kept(desk: Desk) -> None:
    for _ in range(PAGE_SIZE):
        desk.cloud.add("ACTIVE")
    desk.hours = 1.0
    cost_by_resource = await desk.bill.cumulative()
    assert len(cost_by_resource) == PAGE_SIZE + 1
    assert desk.cloud.calls[HISTORY] == 2
    assert desk.cloud.queries[-1] == (HISTORY, {"page": "2", "per_page": str(PAGE_SIZE)})
    desk.cloud.fail(HISTORY, Trouble(200, body=_listing('{"incurred_bill": 12345678.123456789012}', 9)))
    assert await desk.bill.cumulative() == {"9": 12345678123456789012}


async def test_a_bill_without_end_is_refused(desk: Desk) -> None:
    body = _listing('{"incurred_bill": 1}', 9).replace(b'"pages": 1', b'"pages": 1000')
    desk.cloud.fail(HISTORY, Trouble(200, body=body), times=60)
    with pytest.raises(HyperstackError, match="pages"):
        await desk.bill.cumulative()
    assert desk.cloud.calls[HISTORY] == 50


async def test_two_leaders_at_once_count_nothing_twice(desk: Desk) -> None:
    accruals, resource = SqlAccrualStore(desk.engine), str(desk.vm.id)

    async def add_reading(amount: int, minute: int) -> None:
        reading = BillReading(amount, DAY_WINDOW.start + minute * 60_000)
        await accruals.add_readings({resource: reading}, {resource: "m1"}, "hyperstack")

    await add_reading(0, 0)
    await asyncio.gather(*(add_reading(10 * minute, minute) for minute in range(1, 31)))
    await add_reading(300, 31)
    assert sum(row.amount for row in await desk.rows()) == 300


async def test_machines_whose_bill_is_not_read_are_named(desk: Desk) -> None:
    assert await desk.bills.unobserved_machines(300) == {"m1"}
    await desk.read(1.0)
    assert await desk.bills.unobserved_machines(300) == set()
    desk.hours += 300 / 3600
    assert await desk.bills.unobserved_machines(300) == set()
    desk.hours += 1 / 3600
    assert await desk.bills.unobserved_machines(300) == {"m1"}
    desk.hours = 0.5  # its clock was ahead
    assert await desk.bills.unobserved_machines(300) == {"m1"}
    desk.hours = 1.05
    desk.anew()
    assert await desk.bills.unobserved_machines(300) == set(), "another leader knows what was read"


async def test_a_machine_without_a_bill_costs_its_price_or_is_not_known(desk: Desk) -> None:
    desk.cloud.fail(HISTORY, Trouble(200, body=_listing('{"incurred_bill": 1}', 9)), times=2)
    await desk.read(1.0)
    assert await desk.bills.unobserved_machines(300) == {"m1"}
    desk.anew(priced=True)
    assert await desk.bills.unobserved_machines(300) == {"m1"}
    await desk.read(1.0)
    assert await desk.bills.unobserved_machines(300) == set()
    desk.hours = 1.1
    assert await desk.bills.unobserved_machines(300) == {"m1"}


def _listing(metrics: str, machine: int) -> bytes:
    row = f'{{"attributes": {{"infrahub_id": {machine}, "id": "{machine}"}}, "metrics": {metrics}}}'
    history = f'{{"billing_history": [{row}], "pagination": {{"page": 1, "pages": 1}}}}'
    return f'{{"status": true, "billing_history_vm": {history}}}'.encode()


def _moved(at: float, state: MachineState) -> Transition:
    return Transition(
        at=MIDNIGHT + at * 3600,
        machine="m1",
        tier="A",
        from_state=None,
        to_state=state,
        reason="test",
        generation=1,
    )
