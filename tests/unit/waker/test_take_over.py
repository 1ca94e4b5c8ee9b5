"""What a leader does with a machine that the one before it was about to put to sleep."""

from services.waker.core.events import Observation, StopMachine
from tests.unit.waker.fleets import GATEWAY, IDLE, World


def draining() -> World:
    """One gateway, idle; the machine drains and nobody has let go of it yet."""
    world = World()
    world.ready()
    world.pass_time(IDLE - 3)
    world.use("a1")
    world.pass_time(4)
    assert world.state("a1") == "draining"
    return world


def up(world: World, power: str = "running") -> dict[str, Observation]:
    generation = world.machine("a1").generation
    return {"a1": Observation(power=power, provider_state=power, generation=generation)}  # type: ignore[arg-type]  # one of the powers


def test_new_leader_ends_no_drain_before_every_gateway_has_reported() -> None:
    world = draining()
    world.now += 6.0
    world.begin(up(world))
    world.pass_time(GATEWAY - 1)
    assert world.state("a1") == "draining"
    assert not world.take(StopMachine)
    world.use("a1")  # alive, and it has not let go
    world.pass_time(2)
    assert world.state("a1") == "draining"
    world.use("a1", ack=True)
    assert world.state("a1") == "falling_asleep"


def test_new_leader_without_gateways_completes_the_drain() -> None:
    world = draining()
    world.begin(up(world))
    world.pass_time(GATEWAY + 0.5)
    assert world.state("a1") == "falling_asleep"


def test_previous_leaders_stop_is_not_repeated_while_the_machine_is_stopping() -> None:
    world = draining()
    world.use("a1", ack=True)
    assert world.take(StopMachine)
    world.begin(up(world, "stopping"))
    world.pass_time(5)
    assert not world.take(StopMachine)
    world.pass_time(20)
    (again,) = world.take(StopMachine)
    assert isinstance(again, StopMachine)
    assert again.force, "it is stuck"


def test_next_leader_repeats_a_stop_that_never_reached_the_provider() -> None:
    world = draining()
    world.use("a1", ack=True)
    world.begin(up(world))
    (again,) = world.take(StopMachine)
    assert isinstance(again, StopMachine)
    assert not again.force
