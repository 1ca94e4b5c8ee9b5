"""A machine whose engine still runs requests is not stopped, whatever the gateways report."""

import pytest
from prometheus_client import CollectorRegistry

from services.waker.core.events import Command, Observation, Probe, StopMachine
from services.waker.metrics import Metrics
from tests.unit.waker.fleets import CAP, GATEWAY, IDLE, World, answering, invariants, requested, spec


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
    metrics.show_records(record for record, _ in world.bucket.values())
    assert registry.get_sample_value("spot_waker_alarm", {"machine": "a1", "reason": "in_use"}) == 1
    assert registry.get_sample_value("spot_waker_oldest_wake_seconds") == 7
    world.running["a1"] = 0
    world.pass_time(IDLE + CAP)
    metrics.observe_fleet(world.fleet, world.now)
    metrics.show_records(record for record, _ in world.bucket.values())
    assert registry.get_sample_value("spot_waker_alarm", {"machine": "a1", "reason": "in_use"}) is None
    assert registry.get_sample_value("spot_waker_oldest_wake_seconds") == 0


def test_alarm_of_a_machine_in_use_ends_with_its_cause() -> None:
    world = World()
    world.running["a1"] = 2
    _drained(world)
    assert world.bucket["a1"][0].alarm
    world.pass_time(15)
    assert world.bucket["a1"][0].alarm, "it still runs them"
    world.running["a1"] = 0
    world.pass_time(15)
    assert (world.state("a1"), world.bucket["a1"][0].alarm) == ("ready", "")
    assert world.path("a1")[-1] == "ready", "and no transition was needed"
    invariants(world)


def test_alarm_of_a_machine_in_use_ends_when_gateways_report_its_requests() -> None:
    world = World()
    world.running["a1"] = 2
    _drained(world)
    for _ in range(15):
        world.use("a1", in_flight=2)
        world.pass_time(1)
    assert (world.state("a1"), world.bucket["a1"][0].alarm) == ("ready", "")
    invariants(world)


def _broken(world: World) -> None:
    """The waker alone cannot reach a1; a gateway streams from it."""
    world.ready()
    for _ in range(3):
        while not any(isinstance(e, Probe) for e in world.effects):
            world.use("a1", in_flight=1)
            world.pass_time(1, step=1.0)
        world.probed(answered=False)
    assert world.state("a1") == "broken"
    _stream(world, 90)


def _stream(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.use("a1", in_flight=1)
        world.pass_time(1, step=1.0)


def test_broken_machine_is_not_stopped_while_gateways_report_requests_on_it() -> None:
    world = World(spec=spec(provider="ec2"))
    _broken(world)
    assert (world.state("a1"), requested(world, StopMachine)) == ("broken", [])
    world.use("a1")
    world.pass_time(1)
    assert requested(world, StopMachine) == ["a1"]
    invariants(world)


def test_new_leader_awaits_reports_before_it_stops_a_broken_machine() -> None:
    world = World(spec=spec(provider="ec2"))
    _broken(world)
    world.now += 5
    world.begin({"a1": Observation(power="running", provider_state="running")})
    world.pass_time(GATEWAY / 2)
    assert (world.state("a1"), requested(world, StopMachine)) == ("broken", [])
    _stream(world, 30)
    assert (world.state("a1"), requested(world, StopMachine)) == ("broken", [])
    invariants(world)


@pytest.mark.parametrize("is_forced", [True, False])
def test_order_stops_a_broken_machine_in_use_only_if_it_is_forced(is_forced: bool) -> None:
    world = World(spec=spec(provider="ec2"))
    _broken(world)
    world.handle(Command(order="hibernate", target="a1", by="ops@host", force=is_forced))
    assert requested(world, StopMachine) == (["a1"] if is_forced else [])
    if not is_forced:
        world.use("a1")
        world.pass_time(1)
        assert requested(world, StopMachine) == ["a1"], "once the requests have ended"
    invariants(world)


def test_order_for_a_broken_machine_in_use_holds_when_its_engine_answers_again() -> None:
    world = World(spec=spec(provider="ec2"))
    _broken(world)
    world.order("hibernate", "a1")
    world.use("a1", in_flight=1)
    answering(world, 8, until="draining")
    assert world.path("a1")[-2:] == ["ready", "draining"]
    invariants(world)
