"""What wakes of a key count and cost, and that a key at its limit causes none."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.waker.core.events import DemandReported, StartMachine
from services.waker.core.key_wakes import MAX_STARTS, KeyAccount
from shared.messages.gateway import WakeCause, WakeRequest
from shared.units import HOUR_S
from tests.unit.waker.fleets import GATEWAY, World, answering, idle, invariants, requested, spec

PRICE = Decimal("36.00")
"""A cent per second."""
NOON = 1_790_000_000.0


@pytest.fixture
def world() -> Iterator[World]:
    tiers = dict.fromkeys("abs", idle(timeout=600.0, unused_awake=20.0))
    world = World(spec=spec(prices={"a": PRICE}, idle=tiers, wake_cap_s=600.0), now=NOON)
    yield world
    invariants(world)


def cause(key: str, wakes: int = 5, cost: str = "100") -> WakeCause:
    return WakeCause(key_id=key, wakes_per_hour=wakes, cost_per_day=Decimal(cost))


def want(world: World, *causes: WakeCause, model: str = "m", gateway: str = "g1", waiting: int | None = None) -> None:
    request = WakeRequest(
        model=model,
        gateway=gateway,
        waiting=len(causes) if waiting is None else waiting,
        deadline=0.0,
        sent_at=world.now,
        key_id=causes[0].key_id if causes else "",
        seconds_left=600.0,
        causes=causes,
    )
    world.handle(DemandReported(request, world.now))


def come_up(world: World, name: str = "a1") -> None:
    assert world.started().machine == name
    world.probed()
    world.probed()
    assert world.state(name) == "ready"


def spent(world: World, key: str) -> tuple[int, Decimal]:
    message = world.wakes_of_keys[key]
    return message.wakes, message.cost


def test_a_burst_is_one_wake_for_each_key_that_waited_and_its_cost_is_shared(world: World) -> None:
    began = world.now
    want(world, cause("k1"), cause("k2"))
    want(world, cause("k2"), gateway="g2")
    assert world.wakes_of_keys["k1"].wakes == 1, "counted before anything is started"
    want(world, cause("k3"), gateway="g3")
    come_up(world)
    world.pass_time(5)
    assert spent(world, "k1") == (1, Decimal(0))
    assert "k3" not in world.wakes_of_keys, "it came when the wake was under way"
    for gateway in ("g1", "g2", "g3"):
        want(world, gateway=gateway)
    world.use("a1", 1)
    expected = (world.now - began) * float(PRICE) / HOUR_S / 2
    for key in ("k1", "k2"):
        wakes, cost = spent(world, key)
        assert wakes == 1
        assert float(cost) == pytest.approx(expected, abs=0.001)
    world.pass_time(30)
    assert float(spent(world, "k1")[1]) == pytest.approx(expected, abs=0.001), "what it serves is no cost of the wake"


def test_a_key_at_its_limit_causes_no_wake_and_takes_nobody_with_it(world: World) -> None:
    want(world, cause("k1", wakes=1))
    come_up(world)
    world.use("a1", 2)
    world.pass_time(5)
    want(world, cause("k1", wakes=1))
    assert requested(world, StartMachine) == [], "though the machine that is awake is full"
    want(world, cause("k1", wakes=1), cause("k2"))
    assert requested(world, StartMachine) == ["a2"]
    assert (spent(world, "k1")[0], spent(world, "k2")[0]) == (1, 1)


def test_a_key_whose_limit_its_own_wake_has_reached_waits_it_out(world: World) -> None:
    want(world, cause("k1", wakes=1))
    for machine in ("a1", "a2", "b1"):
        assert world.started("refused", reason="no").machine == machine
        want(world, cause("k1", wakes=1))
    for _ in range(25):
        world.pass_time(1)
        want(world, cause("k1", wakes=1))
    assert requested(world, StartMachine) == ["a1"], "the wake goes on"
    assert spent(world, "k1")[0] == 1


def test_a_burst_over_models_stops_at_the_limit(world: World) -> None:
    want(world, cause("k1", wakes=1))
    want(world, cause("k1", wakes=1), model="n")
    assert requested(world, StartMachine) == ["a1"]


def test_a_machine_that_was_woken_and_serves_nobody_sleeps_soon_and_is_charged_for_it(world: World) -> None:
    want(world, cause("k1"))
    come_up(world)
    want(world)
    began = world.now
    answering(world, 60, until="falling_asleep")
    assert world.state("a1") == "falling_asleep"
    assert 20 <= world.now - began <= 20 + GATEWAY + 2
    wakes, cost = spent(world, "k1")
    assert wakes == 1
    assert float(cost) == pytest.approx(0.01 * (world.now - began), abs=0.02)


def test_who_keeps_it_from_sleeping_without_using_it_is_charged_as_for_a_wake(world: World) -> None:
    want(world, cause("k1"))
    come_up(world)
    want(world)
    # A gateway that does not let go of it makes the drain last.
    while world.state("a1") != "draining":
        world.pass_time(1)
        world.use("a1")
    want(world, cause("k1"))
    assert world.state("a1") == "ready"
    assert spent(world, "k1")[0] == 2
    want(world, cause("k1", wakes=2))
    while world.state("a1") != "draining":
        world.pass_time(1)
        want(world, cause("k1", wakes=2))
        world.use("a1")
    want(world, cause("k1", wakes=2))
    assert world.state("a1") == "draining", "at its limit it calls off no drain"


def test_what_a_key_used_outlives_the_waker_and_ends_with_the_hour_and_the_day(world: World) -> None:
    want(world, cause("k1", wakes=1))
    assert requested(world, StartMachine) == ["a1"]
    wake_id = world.fleet.wakes["m"].id
    world.begin({})
    assert (world.fleet.wakes["m"].id, world.fleet.wakes["m"].keys) == (wake_id, ("k1",))
    assert spent(world, "k1")[0] == 1
    want(world, cause("k1", wakes=1), model="n")
    assert "b1" not in requested(world, StartMachine)
    world.fleet = world.fleet.__class__(**{**world.fleet.__dict__, "wakes": {}})
    world.pass_time(HOUR_S, step=600)
    assert world.wakes_of_keys["k1"].wakes == 0


def test_a_key_that_has_spent_the_day_s_cost_causes_no_wake_until_midnight(world: World) -> None:
    want(world, cause("k1", cost="0.05"))
    come_up(world)
    world.pass_time(8)
    world.use("a1", 2)
    assert spent(world, "k1")[1] > Decimal("0.05")
    want(world, cause("k1", cost="0.05"), model="n")
    assert requested(world, StartMachine) == []
    world.pass_time(86400 - world.now % 86400 + 1, step=3600)
    want(world, cause("k1", cost="0.05"), model="n")
    assert requested(world, StartMachine) == ["b1"]


def test_a_key_pays_for_no_time_in_which_its_machine_was_not_configured(world: World) -> None:
    whole = world.spec
    want(world, cause("k1"))
    come_up(world)
    want(world)
    without = {name: machine for name, machine in whole.machines.items() if name != "a1"}
    world.spec = replace(whole, machines=without, lineups={"m": ("a2", "b1"), "n": ("b1",)})
    world.begin({})
    assert not world.fleet.wakes
    world.now += 3 * HOUR_S
    world.spec = whole
    world.begin({})
    world.pass_time(1)
    assert "k1" not in world.wakes_of_keys or spent(world, "k1") == (0, Decimal(0))


moments = st.floats(0.0, 4 * HOUR_S, allow_nan=False)


@given(starts=st.lists(moments, max_size=30), now=moments)
def test_only_the_wakes_of_the_last_hour_count(starts: list[float], now: float) -> None:
    account = KeyAccount()
    for at in sorted(starts):
        account = account.with_wake(NOON + at)
    assert len(account.as_of(NOON + now).starts) == sum(
        1 for at in starts if now - at < HOUR_S and max(starts) - at < HOUR_S
    )


def test_what_is_remembered_of_a_key_is_bounded() -> None:
    account = KeyAccount()
    for number in range(MAX_STARTS + 10):
        account = account.with_wake(NOON + number / 1000)
    assert len(account.starts) == MAX_STARTS
