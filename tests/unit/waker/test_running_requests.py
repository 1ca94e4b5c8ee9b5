"""A machine whose engine still runs requests is not stopped, whatever the gateways report."""

from prometheus_client import CollectorRegistry

from services.waker.core.events import Command, StopMachine
from services.waker.metrics import Metrics
from tests.unit.waker.fleets import CAP, GATEWAY, IDLE, World, invariants, requested


def _drained(world: World) -> None:
    """A gateway that is cut off from the bus still relays from a1; all that the waker hears have let go of it."""
    world.ready()
    world.pass_time(GATEWAY + 1)
    world.pass_time(IDLE)


def test_running_engine_is_not_stopped_and_serves_again() -> None:
    world = World()
    world.running["a1"] = 2
    _drained(world)
    assert world.path("a1")[-2:] == ["draining", "ready"]
    assert requested(world, StopMachine) == []
    assert world.bucket["a1"][0].reason == "its engine runs requests that no gateway reports: 2"
    assert world.bucket["a1"][0].alarm
    world.running["a1"] = 0
    world.pass_time(IDLE + 1)
    assert requested(world, StopMachine) == ["a1"]
    invariants(world)


def test_hibernate_waits_for_the_engine_unless_it_is_forced() -> None:
    world = World()
    world.ready()
    world.pass_time(GATEWAY + 1)
    world.running["a1"] = 1
    world.order("hibernate", "a1")
    world.pass_time(90)
    assert world.state("a1") == "draining"
    assert world.bucket["a1"][0].alarm == "its engine runs requests that no gateway reports"
    world.handle(Command(order="hibernate", target="a1", by="ops@host", force=True))
    assert requested(world, StopMachine) == ["a1"]
    invariants(world)


def test_engine_without_a_count_of_requests_counts_as_idle() -> None:
    world = World()
    world.running["a1"] = None
    _drained(world)
    assert requested(world, StopMachine) == ["a1"]
    assert ("count_requests", "unknown") in world.calls()
    invariants(world)


def test_silent_engine_is_queried_three_times_before_it_counts_as_idle() -> None:
    world = World()
    world.silent = True
    world.ready()
    world.pass_time(GATEWAY + 1)
    world.order("hibernate", "a1")
    world.pass_time(1.5)
    assert world.state("a1") == "draining"
    world.running["a1"], world.silent = 1, False
    world.pass_time(5)
    assert world.state("a1") == "draining"
    world.silent = True
    world.pass_time(5)
    assert requested(world, StopMachine) == ["a1"]
    assert world.calls().count(("count_requests", "unknown")) == 1
    invariants(world)


def test_metrics_show_alarms_by_machine_and_reason_and_the_oldest_wake() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    world = World()
    world.running["a1"] = 1
    _drained(world)
    world.want("n")
    world.now += 7
    metrics.observe_fleet(world.fleet, world.now)
    assert registry.get_sample_value("spot_waker_alarm", {"machine": "a1", "reason": "in_use"}) == 1
    assert registry.get_sample_value("spot_waker_oldest_wake_seconds") == 7
    world.running["a1"] = 0
    world.pass_time(IDLE + CAP)
    metrics.observe_fleet(world.fleet, world.now)
    assert registry.get_sample_value("spot_waker_alarm", {"machine": "a1", "reason": "in_use"}) is None
    assert registry.get_sample_value("spot_waker_oldest_wake_seconds") == 0
