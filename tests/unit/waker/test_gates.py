"""Tiers whose budget gate is closed: nothing of theirs is woken, and what is awake serves out and goes to sleep."""

from collections.abc import Iterator

import pytest

from services.waker.core.events import StartMachine, StopMachine
from shared.weekly_window import parse_window
from tests.unit.waker.fleets import GATEWAY, IDLE, World, answering, beginning, idle, invariants, requested, spec


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    invariants(world)


def test_the_next_open_tier_is_woken_instead(world: World) -> None:
    world.gates("a")
    world.want()
    assert requested(world, StartMachine) == ["b1"]


def test_with_all_of_a_models_tiers_closed_nothing_is_woken_until_one_opens(world: World) -> None:
    world.gates("a", "b")
    world.want()
    world.want("n")
    for _ in range(4):
        world.pass_time(5.0)
        world.want()
    assert requested(world, StartMachine) == []
    assert not world.fleet.wakes
    world.gates("b")
    assert requested(world, StartMachine) == ["a1"]


def test_operators_wake_waits_for_the_gate_across_leaders(world: World) -> None:
    world.gates("b")
    world.order("wake", "n")
    world.pass_time(5.0)
    beginning(world)
    world.pass_time(5.0)
    assert (requested(world, StartMachine), world.fleet.operator_wakes) == ([], ("n",))
    world.gates()
    assert requested(world, StartMachine) == ["b1"]


def test_a_machine_that_wakes_in_a_closed_tier_keeps_no_other_from_it(world: World) -> None:
    world.want()
    assert world.started().machine == "a1"
    world.gates("a")
    world.want()
    assert requested(world, StartMachine) == ["b1"]


def test_a_ready_machine_of_a_closed_tier_keeps_no_other_from_its_wake_and_sleeps_when_idle(world: World) -> None:
    world.ready()
    world.pass_time(GATEWAY + 1)
    world.use("a1", in_flight=1)
    world.gates("a")
    world.want()
    assert requested(world, StartMachine) == ["b1"]
    for _ in range(int(2 * IDLE)):
        world.use("a1", in_flight=1)
        world.want()
        answering(world, 1.0)
    assert world.state("a1") == "ready", "it may finish what it serves"
    for _ in range(int(IDLE) + 2):
        world.use("a1")
        world.want()
        answering(world, 1.0)
    assert world.state("a1") == "draining", "though its model is wanted"
    world.use("a1", ack=True)
    answering(world, 1.0)
    assert "a1" in requested(world, StopMachine)


def test_a_draining_machine_of_a_closed_tier_is_not_called_back(world: World) -> None:
    world.ready()
    for _ in range(int(IDLE + GATEWAY)):
        world.use("a1")
        answering(world, 1.0, until="draining")
    world.gates("a")
    world.want()
    assert world.state("a1") == "draining"
    world.gates()
    world.want()
    assert world.state("a1") == "ready"


def test_a_schedule_keeps_no_machine_of_a_closed_tier_awake() -> None:
    warm = idle(keep_warm=(parse_window("daily 00:00-23:59"),))
    world = World(spec=spec(idle={"a": warm, "b": idle()}), closed=frozenset({"a"}))
    world.pass_time(5.0)
    assert requested(world, StartMachine) == []
    world.gates()
    assert requested(world, StartMachine) == ["a1"]
    world.started()
    world.probed()
    world.probed()
    answering(world, 2 * IDLE + GATEWAY)
    assert world.state("a1") == "ready"
    world.gates("a")
    answering(world, 2.0)
    assert world.state("a1") != "ready"
    invariants(world)
