"""The commands of the operator about machines of a cloud: each stands until the next one, over leaders."""

from collections.abc import Iterator

import pytest

from services.waker.core.events import StartMachine, StopMachine
from shared.messages.waker import CommandIssued
from tests.unit.waker.fleets import GATEWAY, IDLE, World, answering, beginning, invariants, requested, spec


@pytest.fixture
def world() -> Iterator[World]:
    world = World(spec=spec(provider="ec2"))
    yield world
    invariants(world)


def test_the_operators_wake_keeps_it_awake_over_leaders_until_a_hibernate_withdraws_it(world: World) -> None:
    world.order("wake", "m")
    world.started()
    world.seen("a1", "running", after=20)
    answering(world, 3)
    assert (world.state("a1"), world.bucket["a1"][0].kept) == ("ready", True)
    assert not world.fleet.operator_wakes
    for _ in range(3):
        answering(world, 2 * IDLE)
        world.now += 1
        beginning(world, a1="running")
    assert world.state("a1") == "ready"
    assert world.machine("a1").operator.keep_awake
    world.order("hibernate", "a1")
    assert (world.state("a1"), world.machine("a1").operator.keep_awake) == ("draining", False)
    answering(world, GATEWAY + 2, until="falling_asleep")
    assert requested(world, StopMachine) == ["a1"]
    assert not world.machine("a1").operator.is_cordoned
    commands_issued = [(e.order, e.by) for e in world.journal if isinstance(e, CommandIssued)]
    assert commands_issued == [("wake", "ops@host"), ("hibernate", "ops@host")]


def test_operators_wake_survives_a_change_of_leader(world: World) -> None:
    world.order("wake", "n")
    world.started("refused", reason="not now")
    assert world.fleet.operator_wakes == ("n",)
    world.now += 30
    beginning(world)
    assert requested(world, StartMachine) == ["b1"]
    world.started("refused", reason="not now either")
    world.order("hibernate", "b1")
    assert not world.fleet.operator_wakes
    world.pass_time(90, step=1.0)
    assert requested(world, StartMachine) == []


def test_a_hibernate_drains_though_somebody_waits_and_the_next_demand_wakes_another(world: World) -> None:
    world.ready()
    world.pass_time(GATEWAY + 1)
    world.use("a1", in_flight=1)
    world.order("hibernate", "a1")
    world.want()
    assert world.state("a1") == "draining"
    assert requested(world, StartMachine) == ["a2"]
    world.use("a1", in_flight=0, ack=True)
    assert requested(world, StopMachine) == ["a1"]


def test_a_cordoned_machine_is_drained_not_woken_and_taken_into_use_again(world: World) -> None:
    world.ready()
    world.order("wake", "m")
    world.use("a1")
    world.order("cordon", "a1")
    assert (world.state("a1"), world.machine("a1").operator.keep_awake) == ("draining", False)
    world.order("uncordon", "a1")
    assert world.state("a1") == "ready"
    world.use("a1")
    world.order("cordon", "a1")
    answering(world, GATEWAY + 2, until="falling_asleep")
    world.stopped()
    world.seen("a1", "stopped", after=20)
    world.now += 1
    beginning(world)
    world.want()
    assert world.started().machine == "a2"
    world.order("uncordon", "a1")
    world.order("cordon", "a2")
    assert world.state("a2") == "falling_asleep"
    world.want()
    assert requested(world, StartMachine) == ["a1"]


def test_what_is_cordoned_and_comes_up_all_the_same_serves_nobody_and_sleeps(world: World) -> None:
    world.order("cordon", "a1")
    world.seen("a1", "running", after=30)
    answering(world, GATEWAY + 5, until="falling_asleep")
    assert "ready" not in {r.state for r, _ in world.bucket.values()}
    assert requested(world, StopMachine) == ["a1"]


def test_what_the_operator_keeps_awake_is_woken_again_when_it_was_lost() -> None:
    world = World(spec=spec(provider="ec2"))
    world.order("wake", "m")
    assert world.started().machine == "a1"
    world.seen("a1", "running", after=20.0)
    world.probed()
    world.probed()
    assert world.bucket["a1"][0].kept
    world.seen("a1", "stopped", reason="Server.SpotInstanceShutdown", locked="only EC2 may start it")
    assert not world.bucket["a1"][0].kept
    assert world.started().machine == "a2"


def test_a_machine_that_is_woken_by_name_is_the_only_one_and_is_not_kept(world: World) -> None:
    world.order("wake", "a2", is_machine=True)
    assert world.started().machine == "a2"
    world.seen("a2", "running", after=20)
    answering(world, 3)
    assert (world.state("a2"), world.machine("a2").operator.keep_awake) == ("ready", False)
    assert not world.fleet.operator_wakes
    world.order("hibernate", "a2")
    answering(world, GATEWAY + 2, until="falling_asleep")
    assert requested(world, StopMachine) == ["a2"]
    assert requested(world, StartMachine) == []


def test_a_machine_that_is_not_asleep_or_is_cordoned_is_not_woken_by_name(world: World) -> None:
    world.order("cordon", "a1")
    world.order("wake", "a1", is_machine=True)
    assert requested(world, StartMachine) == []
    world.ready("a2")
    world.order("wake", "a2", is_machine=True)
    assert requested(world, StartMachine) == []
