"""A provider in doubt, and what looks prove: what serves goes on serving."""

from services.waker.core.events import Observation, PowerState, Probe, StartMachine
from tests.unit.waker.fleets import IDLE, World, spec


def cloud() -> World:
    world = World(spec(provider="ec2"))
    world.ready()
    world.use("a1")
    return world


def test_nothing_drains_between_a_failed_observation_and_the_next_good_one() -> None:
    world = cloud()
    world.blind = False
    world.pass_time(IDLE - 5)
    world.observed({}, error="503")
    world.pass_time(10)
    assert world.state("a1") == "ready"
    world.seen("a1", "running")
    world.pass_time(0.25)
    assert world.path("a1")[-2:] == ["draining", "falling_asleep"]


def test_a_drain_is_called_off_when_the_provider_cannot_be_seen_any_more() -> None:
    world = cloud()
    world.pass_time(IDLE - 3)
    world.use("a1")
    world.pass_time(4)
    assert world.state("a1") == "draining"
    world.observed({}, error="503")
    assert world.state("a1") == "ready"
    assert world.machine("a1").reason == "its provider cannot be observed: 503"


def test_operators_command_holds_while_the_provider_is_in_doubt() -> None:
    world = cloud()
    world.order("hibernate", "a1")
    world.observed({}, error="503")
    world.use("a1", ack=True)
    assert world.state("a1") == "falling_asleep"


def stuck() -> World:
    """a1 was to sleep, and its provider refuses that."""
    world = cloud()
    world.pass_time(IDLE + 1)
    for _ in range(3):
        assert world.state("a1") == "falling_asleep"
        world.stopped("refused", scope="account", reason="not allowed")
        world.pass_time(3)
    assert world.state("a1") == "broken"
    world.take(Probe)
    return world


def test_what_cannot_be_put_to_sleep_serves_whoever_wants_it() -> None:
    world = stuck()
    world.pass_time(10)
    assert not world.take(Probe)  # nobody does
    world.want()
    world.probed()
    world.probed()
    assert world.state("a1") == "ready"
    assert not world.take(StartMachine)
    world.want(waiting=0)
    world.pass_time(IDLE + 5)
    assert world.state("a1") == "falling_asleep"


def test_what_cannot_be_put_to_sleep_and_does_not_answer_makes_nobody_wait() -> None:
    world = stuck()
    world.want()
    assert not world.take(StartMachine)
    world.probed(answered=False)
    assert world.started().machine == "a2"


def test_what_the_operator_keeps_from_requests_is_not_brought_back() -> None:
    world = stuck()
    world.order("cordon", "a1")
    world.want()
    assert not world.take(Probe)
    assert world.started().machine == "a2"


def test_what_was_brought_back_and_dies_is_watched_for_its_return() -> None:
    world = stuck()
    world.want()
    world.probed()
    world.probed()
    world.want(waiting=0)
    for _ in range(3):
        world.pass_time(10)
        world.probed(answered=False)
    assert world.state("a1") == "broken"
    world.pass_time(5)
    assert world.take(Probe)


def test_a_new_leader_takes_a_machine_that_came_up_at_its_word_and_one_that_is_still_off_not() -> None:
    world = cloud()
    world.want("n")
    assert world.started().machine == "b1"
    powers: tuple[PowerState, PowerState] = ("stopped", "running")
    off, up = (Observation(power=power, provider_state=power) for power in powers)
    world.begin({"b1": off, "a1": up})
    world.seen("b1", "stopped", after=2.0)
    assert (world.state("b1"), world.machine("b1").phase) == ("waking", "calling")
    world.seen("b1", "running", after=2.0)
    assert world.machine("b1").phase == "reaching"
    assert not world.take(StartMachine)


def test_a_self_test_that_fails_is_an_alarm_until_one_passes() -> None:
    world = World(spec=spec(provider="ec2"), tests_pass=False)
    world.pass_time(1.0)
    alarm = world.bucket["b1"][0].alarm
    assert alarm == "it is not put to sleep, since its provider's self-test failed: no permission"
    world.tests_pass = True
    world.pass_time(120.0)
    assert {record.alarm for record, _ in world.bucket.values()} == {""}
