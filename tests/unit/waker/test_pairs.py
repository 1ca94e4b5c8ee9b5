"""Machines that share a pair of GPUs: one of them is awake at a time, and whoever is not in use gives way."""

from dataclasses import replace

import pytest

from services.waker.core.events import Called, Effect, StartMachine, StopMachine, Tick
from shared.messages.waker import Transition
from tests.unit.waker.fleets import GATEWAY, IDLE, World, idle, invariants, spec

SOON = GATEWAY + 1.0
"""A new leader has heard every gateway by then."""


def paired(**changes: object) -> World:
    """Machine a1 for model `m` and b1 for model `n`, on one pair."""
    whole = spec()
    machines = {
        name: replace(whole.machines[name], models=(model,), pair="p") for name, model in {"a1": "m", "b1": "n"}.items()
    }
    return World(spec=replace(whole, machines=machines, lineups={"m": ("a1",), "n": ("b1",)}, **changes))  # type: ignore[arg-type]  # fields of the plan


@pytest.fixture
def world() -> World:
    """Its a1 is ready, and has been for a while."""
    made = paired()
    made.ready()
    live(made, SOON)
    return made


def live(world: World, seconds: float, **uses: int) -> None:
    """Time passes, and a gateway says what it has in flight."""
    end = world.now + seconds
    while world.now < end:
        world.pass_time(1.0)
        world.use("a1", uses.get("a1", 0))


def put_to_sleep(world: World, name: str) -> None:
    """What drains does so, and sleeps."""
    world.use(name, ack=True)
    assert world.stopped().machine == name
    world.seen(name, "stopped")
    assert world.state(name) == "asleep"


def requested(world: World, kind: type[Effect]) -> list[Effect]:
    return [effect for effect in world.effects if isinstance(effect, kind)]


def reasons(world: World, name: str) -> list[str]:
    return [e.reason for e in world.journal if isinstance(e, Transition) and e.machine == name]


def test_the_idle_one_gives_way_at_once(world: World) -> None:
    world.want("n")
    assert world.state("a1") == "draining"
    assert reasons(world, "a1")[-1] == "its pair is needed for n"
    assert requested(world, StartMachine) == []
    put_to_sleep(world, "a1")
    assert world.started().machine == "b1"
    invariants(world)


def test_it_sleeps_before_the_other_begins(world: World) -> None:
    world.want("n")
    world.use("a1", ack=True)
    world.stopped()
    world.pass_time(1.0)
    assert (world.state("a1"), world.state("b1")) == ("falling_asleep", "asleep")
    world.seen("a1", "stopped")
    assert world.started().machine == "b1"
    invariants(world)


def test_what_is_in_use_is_left_alone(world: World) -> None:
    world.use("a1", 1)
    world.want("n")
    live(world, 3.0, a1=1)
    assert world.state("a1") == "ready"
    world.use("a1", 0)
    assert world.state("a1") == "draining"
    invariants(world)


def test_what_is_used_while_it_drains_stays(world: World) -> None:
    world.want("n")
    world.use("a1", 1)
    assert (world.state("a1"), reasons(world, "a1")[-1]) == ("ready", "used while it drained")
    assert requested(world, StopMachine) == []
    invariants(world)


def test_machine_with_demand_of_its_own_stays_awake(world: World) -> None:
    world.want("m")
    world.want("n")
    assert world.state("a1") == "ready"
    world.want("m", 0)
    assert world.state("a1") == "draining"
    invariants(world)


def test_what_the_operator_keeps_stays(world: World) -> None:
    world.order("wake", "m")
    world.want("n")
    live(world, 2.0)
    assert world.state("a1") == "ready"
    world.order("hibernate", "a1")
    assert world.state("a1") == "draining"
    invariants(world)


def test_the_operators_wake_makes_way_too(world: World) -> None:
    world.order("wake", "n")
    assert reasons(world, "a1")[-1] == "its pair is needed for n"
    put_to_sleep(world, "a1")
    assert world.started().machine == "b1"
    invariants(world)


def test_its_shortest_time_awake_is_kept() -> None:
    world = paired(idle={"a": idle(min_awake=30.0), "b": idle(), "s": idle()})
    world.ready()
    ready_since = world.machine("a1").since
    world.want("n", lasts=100.0)
    while world.state("a1") == "ready" and world.now < ready_since + IDLE:
        live(world, 1.0)
        world.want("n", lasts=100.0)
    assert world.machine("a1").since - ready_since == pytest.approx(30.0, abs=1.0)
    invariants(world)


@pytest.mark.parametrize("doubt", ["a new leader", "no self-test", "unseen"])
def test_nothing_gives_way_in_doubt(doubt: str) -> None:
    world = paired()
    if doubt == "no self-test":
        world = replace(world, tests_pass=False, bucket={}, journal=[], memory={}, steps=[])
    world.ready()
    if doubt != "a new leader":
        live(world, SOON)
    if doubt == "unseen":
        world.observed({}, error="no answer")
    world.want("n")
    assert world.state("a1") == "ready"
    invariants(world)


def test_a_start_never_begins_beside_one_that_wakes() -> None:
    world = paired()
    world.want("m")
    world.want("n")
    assert world.started().machine == "a1"
    world.pass_time(5.0)
    assert requested(world, StartMachine) == []
    assert world.state("b1") == "asleep"
    invariants(world)


def test_two_models_in_demand_take_turns_on_a_pair(world: World) -> None:
    """While a1 falls asleep for b1 it is wanted again: b1 was wanted before."""
    world.want("n")
    world.use("a1", ack=True)
    world.want("m")
    world.stopped()
    world.seen("a1", "stopped")
    assert world.started().machine == "b1"
    world.probed()
    world.probed()
    assert (world.state("a1"), world.state("b1")) == ("asleep", "ready")
    world.want("n", 0)
    assert (world.state("b1"), reasons(world, "b1")[-1]) == ("draining", "its pair is needed for m")
    put_to_sleep(world, "b1")
    assert world.started().machine == "a1"
    invariants(world)


def test_one_with_another_way_disturbs_nobody() -> None:
    world = paired()
    machines = {**world.spec.machines, "a2": replace(spec().machines["a2"], models=("n",))}
    world = World(spec=replace(world.spec, machines=machines, lineups={"m": ("a1",), "n": ("b1", "a2")}))
    world.ready()
    live(world, SOON)
    world.want("n")
    assert world.started().machine == "a2"
    assert world.state("a1") == "ready"
    invariants(world)


def test_one_that_runs_beside_the_other_is_put_down(world: World) -> None:
    world.seen("b1", "running")
    assert world.path("b1")[-2:] == ["broken", "falling_asleep"]
    assert reasons(world, "b1")[-1] == "a1 has the GPUs of their pair"
    assert world.stopped().machine == "b1"
    assert world.state("a1") == "ready"
    invariants(world)


def test_one_that_still_ends_is_waited_for(world: World) -> None:
    """It ended without our doing, and its memory is not free yet."""
    world.seen("a1", "stopping")
    assert world.state("a1") == "asleep"
    world.want("n")
    world.handle(Tick())
    assert requested(world, StartMachine) == []
    world.seen("a1", "stopped")
    assert world.started().machine == "b1"
    invariants(world)


@pytest.mark.parametrize("known_from", ["the call", "a look"])
def test_a_process_that_only_slept_keeps_its_generation(world: World, known_from: str) -> None:
    """One generation is one process: what is counted of an engine goes on where it was."""
    world.want("n")
    put_to_sleep(world, "a1")
    world.started()
    world.probed()
    world.probed()
    world.want("n", 0)
    world.want("m")
    put_to_sleep(world, "b1")
    (start,) = world.take(StartMachine)
    assert isinstance(start, StartMachine)
    assert start.generation == 2
    there = "http://a1:1" if known_from == "the call" else None
    called = Called(
        machine="a1", call="start", serial=start.serial, outcome="accepted", seconds=0.1, endpoint=there, generation=1
    )
    world.handle(called if there else replace(called, generation=None))
    if there is None:
        world.seen("a1", "running", generation=1)
    world.probed()
    world.probed()
    assert (world.state("a1"), world.machine("a1").generation) == ("ready", 1)
    world.seen("a1", "running", generation=1)
    assert world.state("a1") == "ready"
    invariants(world)
