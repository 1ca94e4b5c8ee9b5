"""The state machine: what each event leads to, one story at a time."""

import pytest

from services.waker.core.events import (
    ActivityReported,
    Called,
    DemandReported,
    Observation,
    Observe,
    Observed,
    Probe,
    Probed,
    StartMachine,
    StopMachine,
)
from services.waker.core.step import Step
from services.waker.core.transitions import IllegalTransition, is_legal
from shared.messages.gateway import Activity, MachineActivity
from shared.messages.waker import ProviderCall
from tests.unit.waker.fleets import CAP, DEMAND, GATEWAY, IDLE, LIMIT, World, invariants, spec


@pytest.fixture
def world() -> World:
    return World()


def test_a_burst_is_one_start_of_the_first_machine(world: World) -> None:
    for gateway in ("g1", "g2", "g3"):
        world.want(waiting=100, gateway=gateway)
    world.pass_time(2)
    assert [s.machine for s in world.take(StartMachine) if isinstance(s, StartMachine)] == ["a1"]
    record = world.bucket["a1"][0]
    assert (record.state, record.phase, record.wake_id, record.key_id) == ("waking", "calling", "wake-1", "key-g1")
    assert record.endpoint is None


def test_ready_is_one_token_of_this_engine_and_nothing_less(world: World) -> None:
    world.want()
    world.started()
    assert world.machine("a1").phase == "loading"
    world.probed(answered=False)
    assert world.machine("a1").phase == "loading"
    world.pass_time(0.3)
    assert world.probed().step == "reach"
    assert world.machine("a1").phase == "first_token"
    world.probed(answered=False)
    assert world.state("a1") == "waking"
    world.pass_time(0.3)
    assert world.probed(tokens=7).step == "token"
    record = world.bucket["a1"][0]
    assert (record.state, record.phase, record.endpoint) == ("ready", None, "http://a1:1")
    probes = [e for e in world.journal if isinstance(e, ProviderCall) and e.call == "probe"]
    assert [(p.outcome, p.tokens) for p in probes] == [("accepted", 7)]
    invariants(world)


def test_a_probe_of_the_engine_before_proves_nothing(world: World) -> None:
    world.want("n")
    world.started()
    world.probed()
    (old,) = world.take(Probe)
    assert isinstance(old, Probe)
    assert old.step == "token"
    world.seen("b1", "stopped", reason="it died")
    world.started()
    world.handle(Probed(machine="b1", serial=old.serial, step="token", answered=True, seconds=1.0))
    assert world.state("b1") == "waking"
    assert world.machine("b1").phase == "loading"


def test_an_engine_that_dies_is_started_again_within_the_limit(world: World) -> None:
    world.want("n")
    for generation in range(1, LIMIT + 1):
        assert world.started().generation == generation
        world.want("n")
        world.seen("b1", "stopped", reason="exit status 1")
    assert world.state("b1") == "asleep"
    assert "exit status 1; started 3 times" in world.bucket["b1"][0].reason
    invariants(world)


def test_an_engine_that_dies_leaves_the_wake_to_machines_that_were_not_tried(world: World) -> None:
    world.want()
    for machine in ("a1", "a2", "b1"):
        assert world.started().machine == machine
        assert world.machine(machine).wake_id == "wake-1"
        world.want()
        world.seen(machine, "stopped", reason="exit status 1")
    assert world.state("a1") == "asleep"
    assert "exit status 1" in world.bucket["a1"][0].reason
    assert world.started().machine == "b1", "all were tried: the one that died just now is started again at once"
    invariants(world)


def test_a_refused_machine_is_left_alone_while_others_are_tried(world: World) -> None:
    world.want()
    for machine in ("a1", "a2", "b1"):
        assert world.started("refused", reason="no such program").machine == machine
    assert world.take(StartMachine) == []
    tried = []
    for _ in range(200):
        world.pass_time(1.0)
        world.want()
        if any(isinstance(e, StartMachine) for e in world.effects):
            tried.append((world.started("refused").machine, world.now))
        if world.fleet.wakes["m"].id != "wake-1":
            break
    a1 = [at for machine, at in tried if machine == "a1"]
    # 20 s after the first refusal, 40 s after the second, and then no more: three starts for each wake.
    assert [at - 1000.0 for at in a1][:2] == pytest.approx([20, 61], abs=2.5)
    assert all(at - 1000.0 >= CAP for at in a1[2:])
    invariants(world)


def test_a_wake_lasts_no_longer_than_its_cap(world: World) -> None:
    world.want()
    world.started()
    while world.state("a1") == "waking":
        world.pass_time(1.0)
        if any(isinstance(e, Probe) for e in world.effects):
            world.probed(answered=False)
        world.want()
    assert world.state("a1") == "falling_asleep"
    assert CAP <= world.now - 1000.0 <= CAP + 3
    assert "not ready within the wake's deadline" in world.bucket["a1"][0].reason
    assert ("probe", "failed") in world.calls()
    world.stopped()
    world.seen("a1", "stopped")
    assert world.state("a1") == "asleep"
    assert "not ready" in world.bucket["a1"][0].reason
    # Those who still wait get a new attempt, on another machine while this one is left alone.
    assert world.machine("a2").wake_id == "wake-2"


def test_a_wake_runs_on_when_everybody_has_left(world: World) -> None:
    world.want()
    world.want(waiting=0)
    world.started()
    world.probed()
    world.probed()
    assert world.state("a1") == "ready"


@pytest.mark.parametrize("silence", [DEMAND + 1, None])
def test_old_or_withdrawn_demand_wakes_nobody(world: World, silence: float | None) -> None:
    world.want("n")
    world.started("refused")
    if silence is None:
        world.want("n", waiting=0)
        world.pass_time(25)
    else:
        world.pass_time(silence + 25)
    assert world.take(StartMachine) == []


def test_a_late_message_does_not_bring_withdrawn_demand_back(world: World) -> None:
    world.want("n")
    world.started("refused")
    late = world.fleet.demand["n", "g1"]
    world.now += 1
    world.want("n", waiting=0)
    world.now += 0.1
    world.handle(DemandReported(late.request, world.now))
    assert world.fleet.demand["n", "g1"].request.waiting == 0


def test_a_second_machine_only_when_the_ready_one_is_full_and_its_waiters_had_time(world: World) -> None:
    world.ready()
    world.use("a1", in_flight=1)
    world.pass_time(3)
    world.want()
    assert world.take(StartMachine) == []
    world.use("a1", in_flight=2)
    assert [s.machine for s in world.take(StartMachine) if isinstance(s, StartMachine)] == ["a2"]


def test_demand_that_was_sent_before_ready_starts_no_second_machine(world: World) -> None:
    world.want()
    world.started()
    world.probed()
    world.probed()
    world.use("a1", in_flight=2)
    world.pass_time(5)
    assert world.take(StartMachine) == []


def test_idle_then_drained_then_asleep(world: World) -> None:
    world.ready()
    while world.state("a1") == "ready":
        world.pass_time(1.0)
        world.use("a1", used=1010.0)
    assert world.now >= 1010.0 + IDLE
    assert world.state("a1") == "draining"
    world.pass_time(5)
    world.use("a1", used=1010.0)
    assert world.state("a1") == "draining", "a gateway that did not acknowledge holds it"
    world.use("a1", used=1010.0, ack=True)
    assert world.state("a1") == "falling_asleep"
    world.stopped()
    world.seen("a1", "stopping")
    assert world.state("a1") == "falling_asleep"
    world.seen("a1", "stopped")
    assert world.path("a1") == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]
    invariants(world)


def test_an_acknowledgement_of_an_older_record_does_not_count(world: World) -> None:
    world.ready()
    old = world.bucket["a1"][1]
    world.use("a1")
    while world.state("a1") != "draining":
        world.pass_time(1.0)
        world.use("a1")
    use = MachineActivity(in_flight=0, acknowledged=old)
    world.handle(ActivityReported(Activity(gateway="g1", sent_at=world.now, machines={"a1": use})))
    assert world.state("a1") == "draining"
    world.use("a1", ack=True)
    assert world.state("a1") == "falling_asleep"


@pytest.mark.parametrize("how", ["in flight", "used", "wanted"])
def test_use_or_demand_brings_a_draining_machine_back(world: World, how: str) -> None:
    world.ready()
    world.use("a1")
    while world.state("a1") != "draining":
        world.pass_time(1.0)
        world.use("a1")
    world.now += 1
    if how == "wanted":
        world.want()
    else:
        world.use("a1", in_flight=how == "in flight", used=world.now)
    assert world.state("a1") == "ready"
    assert world.take(StopMachine) == []
    assert world.take(StartMachine) == []


def test_a_gateway_that_vanished_is_waited_out_and_no_longer(world: World) -> None:
    world.ready()
    world.pass_time(IDLE - 5)
    world.use("a1")
    while world.state("a1") != "draining":
        world.pass_time(0.25)
    reported_at = world.fleet.gateways["g1"].at
    while world.state("a1") == "draining":
        world.pass_time(0.25)
    assert world.now - reported_at == pytest.approx(GATEWAY, abs=0.6)
    assert world.state("a1") == "falling_asleep"


def test_a_gateway_that_does_not_let_go_keeps_the_machine_awake(world: World) -> None:
    world.ready()
    world.use("a1")
    while world.state("a1") != "draining":
        world.pass_time(1.0)
        world.use("a1")
    began = world.now
    while world.state("a1") == "draining":
        world.pass_time(1.0)
        world.use("a1")
    assert world.state("a1") == "ready"
    assert world.now - began == pytest.approx(61, abs=2)


def test_new_leader_drains_nothing_before_the_gateways_have_reported(world: World) -> None:
    world.ready()
    world.now += 10 * IDLE
    record = world.bucket["a1"][0]
    world.begin({"a1": Observation(power="running", provider_state="running", generation=1, endpoint=record.endpoint)})
    world.pass_time(GATEWAY - 0.5)
    assert world.state("a1") == "ready"
    world.use("a1", in_flight=1)
    world.pass_time(5)
    assert world.state("a1") == "ready"
    invariants(world)


def test_demand_while_falling_asleep_waits_for_asleep_or_takes_another(world: World) -> None:
    world.ready("b1", "n")
    world.pass_time(IDLE + 1)
    assert world.state("b1") == "falling_asleep"
    world.want("n")
    assert world.take(StartMachine) == []
    world.want("m")
    assert [s.machine for s in world.take(StartMachine) if isinstance(s, StartMachine)] == ["a1"]
    world.stopped()
    world.want("n")
    world.seen("b1", "stopped")
    assert [s.machine for s in world.take(StartMachine) if isinstance(s, StartMachine)] == ["b1"]


def test_engine_that_does_not_end_is_broken_after_three_stops(world: World) -> None:
    world.ready("b1", "n")
    world.pass_time(IDLE + 1)
    for _ in range(3):
        world.stopped()
        for _ in range(25):
            world.pass_time(1.0)
            world.seen("b1", "running")
    assert world.state("b1") == "broken"
    invariants(world)
    world.pass_time(61)
    assert world.state("b1") == "falling_asleep"
    world.stopped()
    world.seen("b1", "stopped")
    assert world.state("b1") == "asleep"


def test_a_ready_machine_whose_engine_died_sleeps_with_the_reason_and_wakes_again(world: World) -> None:
    world.ready()
    world.seen("a1", "stopped", reason="the engine ended by signal 9")
    assert world.bucket["a1"][0].reason == "the engine ended by signal 9"
    assert world.bucket["a1"][0].endpoint is None
    world.want()
    assert world.started().generation == 2


@pytest.mark.parametrize("outcome", ["unknown", "failed"])
def test_unknown_call_result_is_followed_by_an_observation(world: World, outcome: str) -> None:
    world.want()
    world.started("unknown" if outcome == "unknown" else "failed")
    assert world.take(StartMachine) == []
    world.pass_time(0.5)
    assert Observe("process") in world.effects
    world.seen("a1", "running", generation=1)
    assert world.machine("a1").phase == "loading"
    assert world.take(StartMachine) == []


def test_a_call_whose_outcome_is_lost_is_in_doubt(world: World) -> None:
    world.want()
    world.take(StartMachine)
    world.pass_time(36)
    assert ("start", "unknown") in world.calls()
    world.seen("a1", "stopped")
    assert len(world.take(StartMachine)) == 1


def test_repeated_call_result_counts_once(world: World) -> None:
    world.want()
    start = world.started()
    before = world.fleet, list(world.journal)
    world.handle(Called(machine="a1", call="start", serial=start.serial, outcome="refused", seconds=0.1))
    assert (world.fleet, world.journal) == before


def test_observation_from_before_the_call_is_ignored(world: World) -> None:
    world.want()
    early = world.now
    world.started()
    off = Observation(power="stopped", provider_state="stopped")
    world.handle(Observed(provider="process", requested_at=early, observations={"a1": off}))
    assert world.machine("a1").phase == "loading"
    assert world.take(StartMachine) == []


def test_an_engine_that_nobody_knows_is_taken_over_through_a_token(world: World) -> None:
    world.bucket.clear()
    world.journal.clear()
    world.begin({"a2": Observation(power="running", provider_state="running", generation=9, endpoint="http://a2:9")})
    assert world.state("a2") == "waking"
    world.pass_time(0.25)
    world.probed()
    world.probed()
    assert world.bucket["a2"][0].generation == 9
    assert world.path("a2") == ["waking", "ready"]
    invariants(world)


@pytest.mark.parametrize("running", [True, False])
def test_a_wake_is_resumed_by_the_next_leader(world: World, running: bool) -> None:
    world.want()
    world.started()
    world.pass_time(50)
    observation = Observation(
        power="running" if running else "stopped",
        provider_state="?",
        generation=1,
        endpoint="http://a1:1" if running else None,
    )
    world.begin({"a1": observation})
    if running:
        assert world.deadline("a1") == 1000.0 + CAP
        world.pass_time(0.25)
        world.probed()
        world.probed()
        assert world.state("a1") == "ready"
    else:
        assert world.state("a1") == "waking"
        assert world.started().generation == 2, "what its waker had not started, or what died since, is started"
    invariants(world)


def test_the_eta_is_the_median_of_what_is_still_to_go(world: World) -> None:
    world.want()
    assert world.bucket["a1"][0].ready_at is None
    world.started()  # calling took 0.1 s
    for _ in range(20):
        world.pass_time(0.5)
        world.probed(answered=False)
    world.pass_time(0.5)
    world.probed()
    world.probed()
    loading = world.fleet.history["a"].phases["loading"][0]
    world.seen("a1", "stopped")
    world.want()
    record = world.bucket["a1"][0]
    assert record.ready_at is not None
    assert record.ready_at - world.now == pytest.approx(0.1 + loading + 0.1, abs=0.05)


def test_a_static_machine_is_ready_when_it_answers_and_broken_when_it_does_not() -> None:
    world = World(spec=spec(static=True))
    assert "s1" not in world.bucket
    world.pass_time(0.25)
    assert world.probed().step == "reach"
    assert world.probed().step == "token"
    assert world.bucket["s1"][0].endpoint == "http://s1"
    for _ in range(20):
        world.pass_time(10.0)
        assert world.probed().step == "reach"
    assert world.state("s1") == "ready", "however long it is idle"
    for _ in range(3):
        while not any(isinstance(e, Probe) for e in world.effects):
            world.pass_time(0.25)
        world.probed(answered=False)
    assert world.state("s1") == "broken"
    assert world.bucket["s1"][0].reason == "does not answer: refused"
    world.want("o")
    for _ in range(2):
        while not any(isinstance(e, Probe) for e in world.effects):
            world.pass_time(0.25)
        world.probed()
    assert world.state("s1") == "ready"
    assert world.path("s1") == ["ready", "broken", "ready"]
    invariants(world)


def test_transition_that_the_table_lacks_is_an_error(world: World) -> None:
    step = Step(world.fleet, world.now)
    for to in ("ready", "draining", "falling_asleep", "asleep"):
        assert not is_legal("asleep", to)
        with pytest.raises(IllegalTransition, match="a1: asleep to"):
            step.transition(world.machine("a1"), to, "a test")
    assert not is_legal("falling_asleep", "waking")
