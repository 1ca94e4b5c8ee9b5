"""Machines of a cloud that are to sleep, or to stay awake: what is seen, idleness, doubt, strays."""

from collections.abc import Iterator

import pytest

from services.waker.core.events import Observation, Observed, Orphan, PowerState, Probe, StartMachine, StopMachine
from services.waker.core.idle import with_gap
from shared.messages.waker import ProviderCall, TierMemory, Transition
from shared.weekly_window import parse_window
from tests.unit.waker.fleets import GATEWAY, IDLE, World, answering, beginning, idle, invariants, requested, spec

STUCK = 300.0
GONE = 60.0


@pytest.fixture
def world() -> Iterator[World]:
    world = World(spec=spec(provider="ec2"))
    yield world
    invariants(world)


def falling(world: World, name: str = "b1") -> None:
    """Awake, then idle until it is asked to sleep."""
    world.ready(name, "n" if name == "b1" else "m")
    answering(world, 10 * IDLE, until="falling_asleep", name=name)
    assert requested(world, StopMachine) == [name]


def orphan(power: PowerState, name: str = "ec2:i-9") -> Orphan:
    return Orphan(id=name, provider="ec2", observation=Observation(power=power, provider_state=power))


def test_machine_that_bounces_back_three_times_is_broken_with_an_alarm_and_retried(world: World) -> None:
    falling(world)
    for attempt in range(3):
        assert world.stopped().force == (attempt > 0)
        world.seen("b1", "stopping", after=3)
        world.seen("b1", "running", after=20)
        assert world.state("b1") == "falling_asleep"
        world.pass_time(1.1, step=1.1)
    assert world.state("b1") == "broken"
    assert world.bucket["b1"][0].alarm == "it still runs after 3 attempts to end it"
    world.pass_time(61, step=1.0)
    assert world.state("b1") == "falling_asleep"
    world.stopped()
    world.seen("b1", "stopped", after=20)
    assert (world.state("b1"), world.bucket["b1"][0].alarm) == ("asleep", "")


def test_refused_stop_is_retried_and_its_reason_is_the_alarm(world: World) -> None:
    falling(world)
    for _ in range(3):
        world.stopped("refused", reason="UnauthorizedOperation: allow ec2:StopInstances")
        world.pass_time(2.5, step=0.5)
    assert world.state("b1") == "broken"
    assert "allow ec2:StopInstances" in world.bucket["b1"][0].alarm


def test_transiently_refused_stop_does_not_count_as_an_attempt(world: World) -> None:
    falling(world)
    for _ in range(8):
        world.stopped("refused", scope="transient")
        assert world.state("b1") == "falling_asleep"
        stop = world.machine("b1").stop
        assert stop is not None
        assert stop.count == 0
        world.pass_time(2.5, step=0.5)
    assert requested(world, StopMachine) == ["b1"]


def test_stop_is_forced_when_the_machine_is_stuck_stopping(world: World) -> None:
    falling(world)
    assert not world.stopped().force
    for _ in range(29):
        world.seen("b1", "stopping", after=10)
        assert requested(world, StopMachine) == []
    world.seen("b1", "stopping", after=15)
    world.pass_time(1)
    assert world.stopped().force


def test_machine_that_starts_while_falling_asleep_is_stopped_once_it_is_up(world: World) -> None:
    world.want("n")
    world.started()
    world.seen("b1", "starting", after=2)
    world.order("hibernate", "b1")
    world.want("n", 0)
    world.stopped("refused", scope="transient")
    world.pass_time(60, step=1.0)
    assert requested(world, StopMachine) == []
    world.seen("b1", "running", after=1)
    world.pass_time(1.1, step=1.1)
    assert requested(world, StopMachine) == ["b1"]


@pytest.mark.parametrize("awake", [False, True])
def test_stopped_and_billed_machine_is_hibernated_at_once(world: World, awake: bool) -> None:
    if awake:
        world.ready("b1", "n")
    world.seen("b1", "stopped_billed", after=30, provider_state="SHUTOFF")
    assert world.path("b1")[-2:] == ["broken", "falling_asleep"]
    assert requested(world, StopMachine) == ["b1"]
    world.stopped()
    world.seen("b1", "starting", after=5)
    world.seen("b1", "running", after=60)
    world.pass_time(1.1, step=1.1)
    world.stopped()
    world.seen("b1", "stopping", after=5)
    world.seen("b1", "stopped", after=60)
    assert world.state("b1") == "asleep"
    assert requested(world, StartMachine) == []


def test_a_machine_that_is_taken_away_drains_at_once_and_is_not_called_back(world: World) -> None:
    world.ready()
    world.pass_time(GATEWAY + 1)
    world.use("a1", in_flight=1)
    world.seen("a1", "running", leaving="EC2 takes it back at 10:02", after=5)
    assert world.state("a1") == "draining"
    world.want()
    assert world.state("a1") == "draining"
    assert requested(world, StartMachine) == ["a2"], "the waiters get another"
    world.use("a1", in_flight=0, ack=True, used=world.now)
    assert requested(world, StopMachine) == ["a1"]


def test_a_machine_that_its_provider_took_sleeps_with_its_words_and_wakes_again(world: World) -> None:
    world.ready()
    world.seen("a1", "stopped", reason="Server.SpotInstanceTermination", after=30)
    assert (world.state("a1"), world.bucket["a1"][0].reason) == ("asleep", "Server.SpotInstanceTermination")
    world.want()
    assert requested(world, StartMachine) == ["a1"]


def test_a_machine_that_runs_without_our_doing_is_taken_over_and_sleeps_when_it_is_idle(world: World) -> None:
    world.seen("a1", "running", after=30)
    assert (world.state("a1"), world.machine("a1").phase) == ("waking", "reaching")
    answering(world, 5, until="ready")
    assert world.bucket["a1"][0].state == "ready"
    answering(world, 2 * IDLE, until="falling_asleep")
    assert requested(world, StopMachine) == ["a1"]


def test_a_machine_is_gone_only_when_it_was_missed_for_a_while_and_returns(world: World) -> None:
    world.ready()
    world.order("wake", "m")
    for _ in range(6):
        world.seen("a1", "not_found", after=9, reason="InvalidInstanceID.NotFound")
        assert world.state("a1") == "ready", "a momentary 'not found' costs nothing"
    world.seen("a1", "running", after=9)
    for _ in range(7):
        world.seen("a1", "not_found", after=9, reason="InvalidInstanceID.NotFound")
    assert world.state("a1") == "ready", "it counts anew"
    world.seen("a1", "not_found", after=9, reason="InvalidInstanceID.NotFound")
    assert world.state("a1") == "gone"
    assert "fix or remove its `instance`" in world.bucket["a1"][0].alarm
    world.want()
    assert requested(world, StartMachine) == ["a2"]
    world.seen("a1", "stopped", after=20)
    assert (world.state("a1"), world.bucket["a1"][0].alarm) == ("asleep", "")


def test_what_was_never_seen_is_gone_at_once_and_a_new_leader_goes_on_from_there(world: World) -> None:
    fresh = World(spec=spec(provider="ec2"))
    fresh.bucket.clear()
    fresh.journal.clear()
    beginning(fresh, a1="not_found")
    assert fresh.state("a1") == "gone"
    assert "`instance`" in fresh.bucket["a1"][0].alarm
    fresh.now += 50
    beginning(fresh, a1="not_found")
    assert fresh.path("a1") == ["gone"], "it is told once"
    fresh.now += 50
    beginning(fresh)
    assert fresh.path("a1") == ["gone", "asleep"]
    invariants(fresh)


def test_orphan_is_put_to_sleep(world: World) -> None:
    world.now += 1
    world.observed({}, orphan("running"))
    assert requested(world, StopMachine) == ["ec2:i-9"]
    assert world.path("ec2:i-9") == ["broken", "falling_asleep"]
    world.stopped()
    world.now += 20
    world.observed({}, orphan("stopped"))
    assert world.state("ec2:i-9") == "asleep"
    world.now += 20
    world.observed({}, orphan("running"))
    assert requested(world, StopMachine) == ["ec2:i-9"], "each time that it runs"


def test_orphan_that_does_not_stop_gets_an_alarm_after_three_stops_and_is_retried(world: World) -> None:
    world.now += 1
    world.observed({}, orphan("running"))
    for _ in range(3):
        world.stopped()
        world.now += 20
        world.observed({}, orphan("running"))
        world.pass_time(1.1, step=1.1)
    assert world.state("ec2:i-9") == "broken"
    assert "still runs after 3 attempts" in world.bucket["ec2:i-9"][0].alarm
    for _ in range(7):
        world.now += 10
        world.observed({}, orphan("running"))
    world.pass_time(1)
    assert requested(world, StopMachine) == ["ec2:i-9"]


@pytest.mark.parametrize("power", ["stopped", "stopping", "error", "not_found"])
def test_orphan_that_costs_nothing_is_left_alone(world: World, power: PowerState) -> None:
    world.now += 1
    world.observed({}, orphan(power))
    assert "ec2:i-9" not in world.fleet.machines


def test_unlisted_orphan_is_gone_and_is_not_used_when_it_returns(world: World) -> None:
    world.now += 1
    world.observed({}, orphan("running"))
    world.stopped()
    for _ in range(8):
        world.now += 10
        world.observed({})
    assert world.state("ec2:i-9") == "gone"
    world.now += 10
    world.observed({}, orphan("running"))
    assert world.state("ec2:i-9") == "falling_asleep"
    assert requested(world, StopMachine) == ["ec2:i-9"]


def test_a_schedule_wakes_one_machine_of_its_tier_and_keeps_it_awake() -> None:
    office = idle(keep_warm=(parse_window("daily 00:20-00:40"),))
    world = World(spec=spec(provider="ec2", idle={"a": office, "b": idle()}))
    world.pass_time(190, step=10.0)  # it is 00:16:40 now
    assert requested(world, StartMachine) == []
    world.pass_time(20, step=10.0)
    assert requested(world, StartMachine) == ["a1"], "one"
    assert world.bucket["a1"][0].key_id is None, "nobody's request caused it"
    world.started()
    world.seen("a1", "running", after=20)
    answering(world, 15 * 60)
    assert world.state("a1") == "ready"
    answering(world, 8 * 60, until="falling_asleep")
    assert 1200 + 20 * 60 <= world.now <= 1200 + 20 * 60 + 5
    invariants(world)


def test_a_pattern_of_gaps_wakes_it_before_its_use_is_due() -> None:
    gaps: tuple[int, ...] = ()
    for _ in range(20):
        gaps = with_gap(gaps, 30 * 60.0)
    world = World(spec=spec(provider="ec2", idle={"a": idle(policy="histogram"), "b": idle()}))
    world.memory["tier.a"] = TierMemory(tier="a", phases={}, wakes=(60.0,), gaps=gaps)
    beginning(world)
    world.ready()
    used = world.now = world.now + 5
    world.use("a1", used=used)
    answering(world, 120, until="falling_asleep")
    assert world.now - used < 90, "a minute, not the timeout"
    world.stopped()
    world.seen("a1", "stopped", after=20)
    while not requested(world, StartMachine):
        world.pass_time(5, step=5.0)
    # The head is 27 minutes after the last use, and a wake takes a minute, or the median of 60 and 20 s.
    assert world.now - used == pytest.approx(27 * 60 - 40, abs=25)
    invariants(world)


def test_it_stays_awake_for_the_least_time_and_is_not_cycled_more_often_than_allowed() -> None:
    world = World(spec=spec(provider="ec2", idle={"a": idle(), "b": idle(min_awake=200.0, max_cycles_per_hour=2)}))
    slept = []
    for _ in range(2):
        world.ready("b1", "n")
        answering(world, 4000, until="falling_asleep", name="b1")
        slept.append(world.now - world.machine("b1").starts.wakes_at[-1])
        world.stopped()
        world.seen("b1", "stopped", after=20)
    assert slept[0] == pytest.approx(222, abs=4)
    assert world.now - 1000.0 > 3600, "a second sleep would have asked for a third wake within the hour"
    invariants(world)


@pytest.mark.parametrize("doubt", ["not tested", "not seen", "silent"])
def test_nothing_sleeps_while_its_provider_is_in_doubt(doubt: str) -> None:
    slow = {"a": idle(timeout=2 * IDLE), "b": idle()}
    world = World(spec=spec(provider="ec2", idle=slow), tests_pass=doubt != "not tested", blind=doubt == "not tested")
    world.ready()
    for _ in range(int(3 * IDLE)):
        answering(world, 1)
        if doubt == "not seen":
            world.observed({}, error="RequestLimitExceeded")
    assert world.state("a1") == "ready"
    world.tests_pass = world.blind = True
    if doubt != "not tested":
        world.now += 1
        world.observed({})
    answering(world, 130, until="falling_asleep")
    assert requested(world, StopMachine) == ["a1"], "and it does when that is over"
    invariants(world)


def test_a_drain_that_a_new_leader_finds_waits_for_its_self_test(world: World) -> None:
    world.ready()
    world.use("a1")
    while world.state("a1") != "draining":
        answering(world, 1)
        world.use("a1")
    world.tests_pass = False
    beginning(world, a1="running")
    answering(world, GATEWAY + 5)
    assert (world.state("a1"), requested(world, StopMachine)) == ("draining", [])
    answering(world, 60, until="ready")
    assert world.bucket["a1"][0].reason == "its provider was not tested or seen within 60 s"


def test_an_engine_that_dies_on_a_machine_that_runs_is_broken_put_to_sleep_and_woken_again(world: World) -> None:
    world.ready()
    for _ in range(3):
        while not any(isinstance(e, Probe) for e in world.effects):
            world.pass_time(1.0, step=1.0)
        assert world.state("a1") == "ready"
        world.probed(answered=False)
    assert (world.state("a1"), world.bucket["a1"][0].alarm) == ("broken", "does not answer: refused")
    world.want()
    assert world.started().machine == "a2", "who waits gets another meanwhile"
    world.want(waiting=0)
    world.pass_time(61, step=1.0)
    assert requested(world, StopMachine) == ["a1"]
    world.stopped()
    world.seen("a1", "stopped", after=20)
    world.order("cordon", "a2")
    world.want()
    assert world.state("a1") == "waking"


def unanswered(world: World) -> None:
    world.ready()
    for _ in range(3):
        while not any(isinstance(e, Probe) for e in world.effects):
            world.pass_time(1.0, step=1.0)
        world.probed(answered=False)
    assert world.bucket["a1"][0].reason == "does not answer: refused"


def test_provider_words_replace_those_of_the_probe_when_it_took_the_machine(world: World) -> None:
    unanswered(world)
    world.seen("a1", "stopped", reason="Server.SpotInstanceTermination", after=5)
    assert (world.state("a1"), world.bucket["a1"][0].reason) == ("asleep", "Server.SpotInstanceTermination")
    (last,) = [e for e in world.journal if isinstance(e, Transition)][-1:]
    assert (last.to_state, last.reason) == ("asleep", "Server.SpotInstanceTermination")


def test_provider_words_replace_those_of_the_probe_while_it_takes_the_machine(world: World) -> None:
    unanswered(world)
    words = "its provider reclaims it: EC2 takes it back"
    world.seen("a1", "running", leaving="EC2 takes it back", after=5)
    assert (world.state("a1"), world.bucket["a1"][0].reason) == ("broken", words)
    world.seen("a1", "running", leaving="EC2 takes it back", after=5)
    assert [e.code for e in world.journal if isinstance(e, ProviderCall) and e.call == "notice"] == [
        "EC2 takes it back"
    ], "once"
    world.pass_time(15, step=1.0)
    world.probed(answered=False, code="timeout")
    assert world.bucket["a1"][0].reason == words
    world.seen("a1", "stopped", after=1)
    assert (world.state("a1"), world.bucket["a1"][0].reason) == ("asleep", words)


def test_an_engine_that_answers_again_is_ready_again(world: World) -> None:
    world.ready()
    for _ in range(3):
        while not any(isinstance(e, Probe) for e in world.effects):
            world.pass_time(1.0, step=1.0)
        world.probed(answered=False)
    assert world.state("a1") == "broken"
    answering(world, 40, until="ready")
    assert world.state("a1") == "ready"


def test_machine_in_error_has_an_alarm_and_may_be_tried(world: World) -> None:
    falling(world)
    world.stopped()
    world.seen("b1", "error", after=20, provider_state="ERROR")
    assert (world.state("b1"), world.bucket["b1"][0].alarm) == ("asleep", "its provider says ERROR")
    world.want("n")
    assert requested(world, StartMachine) == ["b1"]


def test_observation_older_than_the_call_is_ignored(world: World) -> None:
    falling(world)
    early = world.now = world.now + 0.05  # while the call is under way
    world.stopped()
    observations = {"b1": Observation(power="stopped", provider_state="stopped")}
    world.handle(Observed(provider="ec2", requested_at=early, observations=observations))
    assert world.state("b1") == "falling_asleep"
