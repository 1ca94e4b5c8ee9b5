"""The budget gates on real buses and databases: spend against limits, orders, leaders that follow one another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters.accrual_store import SqlAccrualStore
from services.billing.adapters.day_store import SqlDayStore
from services.billing.adapters.revision_store import SqlRevisionStore
from services.billing.adapters.schema import MIGRATIONS
from services.billing.adapters.transition_store import SqlTransitionStore
from services.billing.app.budget_gates import BudgetGates
from services.billing.app.day_reports import DayReports
from services.billing.app.meter_client import MeterClient
from services.billing.app.report_publisher import published_revision
from services.billing.app.running_bill import RunningBillPoller
from services.billing.metrics import Metrics
from services.billing.settings import settings
from shared import database
from shared.bus import subjects, topology
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.clouds.hyperstack import HyperstackError
from shared.config.load import parse
from shared.errors import BusUnavailable
from shared.messages.budget import BudgetGate, GateOrder, GateOrdered, Gates, GatesQuery, GateTurned
from shared.messages.codec import Message, decode, encode
from shared.messages.meter import ErrorReply
from shared.messages.waker import MachineState, Transition
from tests.integration.billing.billing_service import CONFIG, billing, configured, publish_transition, replica
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import DAY_WINDOW

MIDNIGHT = DAY_WINDOW.start / 1000
FILE = """
[billing]
{more}
[provider.hyperstack]
[[tier]]
name = "A"
provider = "static"
price_per_hour = "2.40"
daily_budget = "20.00"
[[tier]]
name = "B"
provider = "static"
price_per_hour = "1.00"
[[tier]]
name = "H"
provider = "hyperstack"
daily_budget = "20.00"
[[machine]]
id = "a-1"
tier = "A"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "b-1"
tier = "B"
endpoint = "http://127.0.0.1:2"
[[machine]]
id = "h-1"
tier = "H"
instance = "7"
endpoint = "http://127.0.0.1:3"
"""
FLEET = 'daily_budget = "30.00"'
A, H = "tier.A", "tier.H"


class RunningBill:
    """A running bill that says what the test does."""

    provider = "hyperstack"
    cost_by_resource: dict[str, int] | None = None

    async def cumulative(self) -> dict[str, int]:
        if self.cost_by_resource is None:
            raise HyperstackError("503", "away")
        return self.cost_by_resource


@dataclass
class Desk:
    """A leader's gatekeeper at a clock that the test moves."""

    bus: Bus
    engine: AsyncEngine
    more: str = FLEET
    hours: float = 0.0
    bill: RunningBill = field(default_factory=RunningBill)

    def __post_init__(self) -> None:
        self.anew()

    def now(self) -> float:
        return MIDNIGHT + self.hours * 3600

    def anew(self) -> None:
        """Another leader."""
        config = parse(FILE.format(more=self.more), "test")
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        chosen = settings(config)
        book, revisions = SqlDayStore(self.engine), SqlRevisionStore(self.engine)
        published = partial(published_revision, self.bus)
        reports = DayReports(MeterClient(self.bus), book, revisions, chosen, metrics, published=published, now=self.now)
        self.bills = RunningBillPoller(
            self.bill, SqlAccrualStore(self.engine), {"7": "h-1"}, frozenset(), metrics, now=self.now
        )
        self.budget_gates = BudgetGates(self.bus, reports, self.bills, config, metrics, now=self.now)

    async def moved(self, machine: str, at: float, state: MachineState) -> None:
        entry = Transition(
            at=MIDNIGHT + at * 3600,
            machine=machine,
            tier=machine[0].upper(),
            from_state=None,
            to_state=state,
            reason="test",
            generation=1,
        )
        await SqlTransitionStore(self.engine).record([entry])

    async def update(self, at: float, billed: int | None = 0) -> dict[str, BudgetGate]:
        """`billed`: what Hyperstack says in whole USD; None: nothing."""
        self.hours = at
        self.bill.cost_by_resource = None if billed is None else {"7": billed * 10**12}
        await self.bills.poll()
        await self.read_journal()
        await self.budget_gates.update()
        return await self.gates()

    async def read_journal(self) -> None:
        """As the service does besides."""
        while await self.bus.backlog(topology.BOOKS):
            for delivery in await self.bus.fetch(topology.BOOKS, batch=100, wait=1.0):
                await delivery.ack()

    async def gates(self) -> dict[str, BudgetGate]:
        entries = await self.bus.entries(topology.BUDGET)
        return {subjects.name(key): decode(entry.value, BudgetGate) for key, entry in entries.items()}

    async def ask(self, question: Message) -> Gates | ErrorReply:
        return msgspec.json.decode(await self.budget_gates.answer(encode(question)), type=Gates | ErrorReply)

    async def order(self, scope: str, word: GateOrdered) -> BudgetGate:
        answer = await self.ask(GateOrder(scope=scope, order=word, by="ann@host", reason="a demo"))
        assert isinstance(answer, Gates), answer
        return answer.gates[scope]

    async def journal(self) -> list[tuple[str, bool, str]]:
        return [(e.scope, e.open, e.reason) for e in await self.turns()]

    async def turns(self) -> list[GateTurned]:
        entries = await self.bus.read(topology.FLEET_JOURNAL, "fleet.journal.budget.>")
        return [decode(received.data, GateTurned) for received in entries]

    def metric(self, name: str, scope: str) -> float | None:
        return self.registry.get_sample_value(f"spot_billing_gate_{name}", {"scope": scope})


@asynccontextmanager
async def desk_on(bus: Bus, url: str, more: str = FLEET) -> AsyncIterator[Desk]:
    async with database.migrated_engine(url, MIGRATIONS, version_table="books_version") as engine:
        desk = Desk(bus, engine, more)
        for machine in ("a-1", "b-1", "h-1"):
            await desk.moved(machine, -1, "asleep")
        yield desk


@pytest.fixture
async def desk(bus: Bus, books_url: str) -> AsyncIterator[Desk]:
    """On a real NATS server."""
    async with desk_on(bus, books_url) as made:
        yield made


async def test_each_scope_is_judged_by_its_own_spend(desk: Desk) -> None:
    await desk.moved("a-1", 0, "ready")
    gates = await desk.update(6.0)
    assert {scope: (g.open, g.warning, g.spend) for scope, g in gates.items()} == {
        "fleet": (True, False, Decimal("14.4")),
        A: (True, False, Decimal("14.4")),
        H: (True, False, Decimal(0)),
    }
    gates = await desk.update(7.0)
    assert (gates[A].open, gates[A].warning) == (True, True)
    gates = await desk.update(9.0)
    assert (gates[A].open, gates[A].reason, gates["fleet"].open) == (False, "budget_closed", True)
    assert (desk.metric("open", A), desk.metric("open", "fleet")) == (0, 1)
    assert (desk.metric("warning", A), desk.metric("observed", A)) == (1, 1)
    assert desk.metric("spend_usd", A) == pytest.approx(21.6)
    assert desk.metric("limit_usd", A) == 20
    gates = await desk.update(9.1, billed=25)
    assert (gates[H].spend, gates[H].reason) == (Decimal(25), "budget_closed")
    assert gates["fleet"].reason == "budget_closed", "46.84 of 30"
    gates = await desk.update(24.1, billed=25)
    assert {g.open for g in gates.values()} == {True}, "a new day"
    assert await desk.journal() == [
        ("fleet", True, ""),
        (A, True, ""),
        (H, True, ""),
        (A, True, ""),  # it warns
        (A, False, "budget_closed"),
        ("fleet", False, "budget_closed"),
        (H, False, "budget_closed"),
        ("fleet", True, ""),
        (A, True, ""),
        (H, True, ""),
    ]


async def test_a_running_bill_that_cannot_be_read_closes_the_gates_that_need_it(desk: Desk) -> None:
    await desk.update(1.0)
    known = await desk.update(1.05, billed=None)
    assert {g.open for g in known.values()} == {True}, "not for so long yet"
    dark = await desk.update(1.1, billed=None)
    reasons = {scope: g.reason for scope, g in dark.items()}
    assert reasons == {"fleet": "billing_unobservable", A: "", H: "billing_unobservable"}
    assert (dark[H].observed, desk.metric("observed", H)) == (False, 0)
    assert [turn.spend for turn in (await desk.turns())[-2:]] == [None, None]
    assert {g.open for g in (await desk.update(1.2, billed=3)).values()} == {True}


async def test_a_machine_new_on_the_running_bill_counts_from_its_first_cent(desk: Desk) -> None:
    await desk.moved("h-1", 6, "ready")
    desk.hours, desk.bill.cost_by_resource = 5.9, {}
    await desk.bills.poll()
    assert (await desk.update(6.75, 27))[H].spend == 27
    assert (await desk.update(6.8, 28))[H].spend == 28


async def test_in_the_dark_the_gates_stay_open_where_the_operator_chose_so(bus: Bus, books_url: str) -> None:
    async with desk_on(bus, books_url, FLEET + '\nwhen_dark = "open"') as desk:
        await desk.update(0.9)
        await desk.update(1.0, billed=21)
        dark = await desk.update(1.2, billed=None)
        assert {scope: (g.open, g.observed) for scope, g in dark.items()} == {
            "fleet": (True, False),
            A: (True, True),
            H: (False, False),
        }


async def test_an_order_stands_until_midnight_over_leaders(desk: Desk) -> None:
    await desk.update(1.0)
    closed = await desk.order(A, "close")
    assert (closed.reason, closed.ordered_by, closed.ordered_why) == ("closed_by_operator", "ann@host", "a demo")
    assert (await desk.gates())[A] == closed, "on record when it is answered"
    desk.anew()
    gates = await desk.update(2.0)
    assert (gates[A].reason, gates["fleet"].open) == ("closed_by_operator", True)
    desk.anew()
    await desk.order(A, "open")
    await desk.moved("a-1", 2.0, "ready")
    assert (await desk.update(23.0))[A].open, "whatever it costs"
    assert not (await desk.gates())["fleet"].open
    await desk.order(A, "auto")
    assert (await desk.gates())[A].reason == "budget_closed"
    await desk.order(A, "close")
    await desk.moved("a-1", 23.5, "asleep")
    gates = await desk.update(24.01)
    assert (gates[A].open, gates[A].ordered) == (True, "auto")
    turns = [(t.open, t.by, t.why) for t in await desk.turns() if t.scope == A]
    assert turns == [
        (True, "", ""),
        (False, "ann@host", "a demo"),
        (True, "ann@host", "a demo"),
        (True, "ann@host", "a demo"),  # it warns
        (False, "ann@host", "a demo"),
        (False, "ann@host", "a demo"),
        (True, "", ""),
    ]


async def test_an_order_counts_before_the_first_update(desk: Desk) -> None:
    assert (await desk.order(H, "close")).reason == "closed_by_operator"
    assert (await desk.update(1.0))[H].reason == "closed_by_operator"


async def test_bad_orders_are_refused_and_change_nothing(desk: Desk) -> None:
    await desk.update(1.0)
    before = await desk.gates()
    for order, named in (
        (GateOrder(scope="tier.B", order="close", by="a", reason="r"), "tier.B"),
        (GateOrder(scope="Fleet", order="close", by="a", reason="r"), "fleet, tier.A, tier.H"),
        (GateOrder(scope="fleet", order="close", by="a", reason=" "), "reason"),
        (GatesQuery(), ""),
    ):
        answer = await desk.ask(order)
        assert isinstance(answer, ErrorReply) == bool(named), answer
        assert named in getattr(answer, "reason", "")
    assert b"refused" in await desk.budget_gates.answer(b'{"type": "gate_order.v1", "scope": "fleet", "order": "shut"}')
    assert await desk.gates() == before


async def test_a_leader_that_was_followed_undoes_nothing(desk: Desk) -> None:
    await desk.update(1.0)
    old = desk.budget_gates
    desk.anew()
    await desk.order(A, "close")
    await desk.read_journal()
    await old.update()
    assert (await desk.gates())[A].reason == "closed_by_operator"
    await desk.budget_gates.update()
    assert (await desk.gates())[A].reason == "closed_by_operator"


async def test_a_turn_is_journalled_once_though_its_leader_died_before_the_gate_was_put(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.update(1.0)
    turns_before = len(await desk.turns())

    async def cut(*_args: object, **_more: object) -> int:
        raise BusUnavailable("it died")

    with monkeypatch.context() as patched:  # the process dies between the two
        patched.setattr(desk.bus, "update", cut)
        with pytest.raises(BusUnavailable):
            await desk.update(9.0, billed=21)
    desk.anew()
    await desk.update(9.0, billed=21)
    turned = [(t.scope, t.reason) for t in (await desk.turns())[turns_before:]]
    assert turned == [(H, "budget_closed")]


async def test_a_bucket_that_was_emptied_is_filled_again(desk: Desk) -> None:
    await desk.update(1.0)
    for scope in ("fleet", A, H):
        await desk.bus.delete(topology.BUDGET, subjects.budget_key(scope))
    assert set(await desk.update(1.01)) == {"fleet", A, H}


async def test_books_that_cannot_be_read_close_every_gate_after_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database's failover takes a minute, and must not stop every request."""
    known = await desk.update(1.0)

    async def away(*_args: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(SqlDayStore, "read", away)
    await desk.read_journal()
    desk.hours = 1 + 299 / 3600
    assert await desk.budget_gates.update() == "no spend is known: OSError: the disk is gone"
    assert await desk.gates() == known, "each as it was observed, and when"
    desk.anew()
    await desk.budget_gates.update()
    assert await desk.gates() == known, "another leader knows no more"
    desk.hours = 1 + 301 / 3600
    await desk.budget_gates.update()
    assert {g.reason for g in (await desk.gates()).values()} == {"billing_unobservable"}
    monkeypatch.undo()
    assert {g.open for g in (await desk.update(1.1)).values()} == {True}


async def test_an_order_counts_while_the_books_cannot_be_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.update(1.0)

    async def away(*_args: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(SqlDayStore, "read", away)
    assert (await desk.order("fleet", "close")).reason == "closed_by_operator"
    assert (await desk.order("fleet", "open")).open


async def test_a_new_leader_judges_nothing_before_the_journal_is_read(desk: Desk) -> None:
    await desk.bus.publish(subjects.journal("a-1"), b"{}")
    await until(lambda: desk.bus.backlog(topology.BOOKS), lambda backlog: backlog == 1)  # the server counts it later
    updating = asyncio.create_task(desk.budget_gates.update())
    done, _ = await asyncio.wait([updating], timeout=0.5)
    assert not done
    assert await desk.gates() == {}
    await desk.read_journal()
    async with asyncio.timeout(60):
        await updating
    assert await desk.gates()


def test_the_next_update_is_due_when_the_next_day_begins(books_url: str) -> None:
    del books_url
    desk = Desk(MemoryBus(), None)  # type: ignore[arg-type]  # nothing is asked of it
    desk.hours = 12.0
    assert desk.budget_gates.pause(10.0) == 10.0
    desk.hours = 24 - 2 / 3600
    assert desk.budget_gates.pause(10.0) == pytest.approx(2.5, abs=0.01)


@pytest.mark.parametrize(
    ("limit", "known", "expected"),
    [
        ("24.00", True, (False, "budget_closed", 24)),
        ("24.01", True, (True, "", 24)),
        ("999", False, (False, "billing_unobservable", 0)),
    ],
)
async def test_the_service_keeps_the_gate(
    tmp_path: Path, limit: str, known: bool, expected: tuple[bool, str, int]
) -> None:
    bus = MemoryBus()
    if known:
        await publish_transition(bus, "a-1", -1, "ready")
    now = MIDNIGHT + 10 * 3600  # ten hours at 2.40
    config = configured(CONFIG + f'[billing]\ndaily_budget = "{limit}"\n')
    async with billing(tmp_path, config, bus, now=now) as (books, runtime):
        books.meter.refuses = True  # tokens divide the spend, they do not change it
        answer = await until(lambda: query_gates(bus), lambda gates: bool(gates.gates))
        gate = answer.gates["fleet"]
        assert (gate.open, gate.reason, int(gate.spend)) == expected
        assert (gate.limit, gate.observed_at) == (Decimal(limit), now)
        value = runtime.registry.get_sample_value
        assert await until(lambda: stored_gate(bus), lambda stored: stored is not None) == gate
        assert value("spot_billing_gate_open", {"scope": "fleet"}) == gate.open
        async with replica(tmp_path, config, bus, now) as standby:
            shown = standby.registry.get_sample_value
            assert shown("spot_billing_gate_open", {"scope": "fleet"}) == gate.open, "the gauges do not vanish"
            assert shown("spot_billing_leading") == 0


async def test_without_a_budget_there_is_no_gate(tmp_path: Path) -> None:
    bus = MemoryBus()
    async with billing(tmp_path, configured(), bus) as (books, runtime):
        await books.report()
        assert await bus.entries(topology.BUDGET) == {}
        assert (await query_gates(bus)).gates == {}
        assert runtime.health.faults() == {}


async def query_gates(bus: Bus) -> Gates:
    return decode(await bus.request(subjects.BILLING_GATE, encode(GatesQuery()), timeout=PATIENCE_SECONDS), Gates)


async def stored_gate(bus: Bus) -> BudgetGate | None:
    entry = await bus.get(topology.BUDGET, subjects.budget_key("fleet"))
    return None if entry is None else decode(entry.value, BudgetGate)
