"""A machine that leaves the configuration: its journal ends, and an operator learns of it if it may still run."""

from dataclasses import replace

import pytest

from services.waker.core.events import Observation, Orphan, StopMachine
from services.waker.core.removals import REASON, REMEMBER_S
from shared.messages.waker import REMOVED, MachineState, Transition
from tests.unit.waker.fleets import GATEWAY, Died, World, invariants, spec

WHOLE = spec()
WITHOUT_A1 = replace(
    WHOLE,
    machines={name: machine for name, machine in WHOLE.machines.items() if name != "a1"},
    lineups={"m": ("a2", "b1"), "n": ("b1",)},
)


def running(world: World) -> dict[str, Observation]:
    generation = world.fleet.machines["a1"].generation if "a1" in world.fleet.machines else 1
    return {"a1": Observation(power="running", provider_state="up", generation=generation, endpoint="http://a1")}


def removed(world: World, *orphans: Orphan) -> None:
    """The next leader does not know a1."""
    seen = running(world) if world.state("a1") != "asleep" else {}
    world.spec = WITHOUT_A1
    world.begin(seen, *orphans)
    invariants(world)


def last(world: World) -> tuple[MachineState | None, MachineState, str]:
    move = [e for e in world.journal if isinstance(e, Transition) and e.machine == "a1"][-1]
    return move.from_state, move.to_state, move.reason


def test_machine_that_was_ready_is_gone_with_an_alarm_for_a_day() -> None:
    world = World()
    world.ready()
    ended_at = world.now = world.now + 100
    removed(world)
    assert last(world) == ("ready", "gone", REASON)
    record, _ = world.bucket["a1"]
    assert (record.state, record.endpoint, record.alarm_reason, record.since) == ("gone", None, REMOVED, ended_at)
    assert "it was ready when it was removed" in record.alarm
    count = len(world.journal)
    world.now += REMEMBER_S / 2
    world.begin({})
    assert "a1" in world.bucket, "the next leader keeps it"
    world.now = ended_at + REMEMBER_S - 1
    world.pass_time(0.5, step=0.5)
    assert "a1" in world.bucket
    world.pass_time(1, step=1.0)
    assert "a1" not in world.bucket
    assert [e for e in world.journal[count:] if e.machine == "a1"] == []
    invariants(world)


def test_machine_that_slept_is_forgotten_at_once() -> None:
    world = World()
    removed(world)
    assert last(world) == ("asleep", "gone", REASON)
    assert "a1" not in world.bucket
    assert not world.fleet.removed


@pytest.mark.parametrize("deaths", [0, 1])
def test_leader_that_dies_before_the_record_is_written_leaves_it_to_the_next(deaths: int) -> None:
    world = World()
    world.ready()
    world.spec, world.dies_after = WITHOUT_A1, deaths
    with pytest.raises(Died):
        world.begin({})
    world.dies_after = None
    begun = [world.bucket["a1"][0].state]
    world.begin({})
    assert last(world) == ("ready", "gone", REASON)
    assert world.path("a1").count("gone") == 1 + deaths
    assert [*begun, world.bucket["a1"][0].state] == ["ready", "gone"]


@pytest.mark.parametrize("tier", ["a", "b"])
def test_machine_that_is_configured_again_begins_anew(tier: str) -> None:
    world = World()
    world.ready()
    seen = running(world)
    removed(world)
    moved = replace(WHOLE.machines["a1"], tier=tier)
    world.spec = replace(WHOLE, machines={**WHOLE.machines, "a1": moved})
    world.begin(seen)
    assert last(world)[:2] == (None, "waking"), "it runs"
    record, _ = world.bucket["a1"]
    assert (record.tier, record.alarm, record.alarm_reason) == (tier, "", "")
    assert record.generation == 1, "its engine is the same"
    assert not world.fleet.removed
    invariants(world)


def test_record_of_the_old_tier_does_not_outlive_its_configuration() -> None:
    world = World()
    world.ready()
    moved = replace(WHOLE.machines["a1"], tier="b")
    world.spec = replace(WHOLE, machines={**WHOLE.machines, "a1": moved})
    world.begin({}, error="503")
    assert "a1" not in world.bucket, "nobody knows what it does now"
    invariants(world)
    world.seen("a1", "running", generation=1)
    assert last(world)[:2] == (None, "waking")
    invariants(world)


def test_removed_machine_with_the_fleets_mark_sleeps_once_its_requests_have_ended() -> None:
    """The provider shows it as an orphan, by its own id: no gateway names that."""
    world = World(spec=replace(WHOLE, machines=spec(provider="hyperstack").machines))
    world.ready()
    world.spec = replace(WITHOUT_A1, machines={n: m for n, m in world.spec.machines.items() if n != "a1"})
    orphan = Orphan(
        id="hyperstack:7",
        provider="hyperstack",
        observation=Observation(power="running", provider_state="ACTIVE"),
    )
    world.begin({}, orphan)
    for _ in range(int(GATEWAY) + 2):
        world.use("a1", in_flight=1)
        world.pass_time(1)
        world.observed({}, orphan)
    assert not world.take(StopMachine)
    world.use("a1", in_flight=0)
    world.now += 1
    world.observed({}, orphan)
    (stop,) = world.take(StopMachine)
    assert isinstance(stop, StopMachine)
    assert stop.machine == "hyperstack:7"


def test_outdated_leader_stops_no_orphan() -> None:
    cloud = spec(provider="hyperstack")
    world = World(spec=cloud)
    world.fleet = replace(world.fleet, is_outdated=True)
    orphan = Orphan(
        id="hyperstack:7",
        provider="hyperstack",
        observation=Observation(power="running", provider_state="ACTIVE"),
    )
    world.now += 1
    world.observed({}, orphan)
    assert not world.take(StopMachine)
    assert "hyperstack:7" not in world.fleet.machines
    world.fleet = replace(world.fleet, is_outdated=False)
    world.now += 1
    world.observed({}, orphan)
    assert world.take(StopMachine)
