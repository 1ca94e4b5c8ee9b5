"""Waking machines of a cloud: refusals, capacity, lost outcomes, hedges, deadlines; one behaviour at a time."""

from collections.abc import Iterator

import pytest

from services.waker.core.events import Observe, Probe, Probed, RefusalScope, StartMachine, StopMachine
from services.waker.core.history import PHASES
from services.waker.core.policy import starts
from shared.messages.waker import CallOutcome, PhaseEnded, ProviderCall, TierMemory, Transition
from tests.unit.waker.fleets import CAP, LIMIT, World, invariants, requested, spec

SETTLE = 10.0
POOLS = {"a1": "h100/zone-a", "a2": "h100/zone-a", "b1": "h100/zone-b"}


@pytest.fixture
def world() -> Iterator[World]:
    world = World(spec=spec(provider="ec2"))
    for name, pool in POOLS.items():
        world.seen(name, "stopped", pool=pool)
    yield world
    invariants(world)


def wait(world: World, seconds: float, model: str = "m") -> None:
    """With demand that is repeated."""
    end = world.now + seconds
    while world.now < end:
        world.want(model)
        world.pass_time(min(1.0, end - world.now), step=1.0)


def alarm(world: World, name: str) -> str:
    return world.bucket[name][0].alarm


def test_a_pool_without_capacity_cools_all_of_it_and_the_next_tier_is_tried_at_once(world: World) -> None:
    world.want()
    began = world.now
    assert world.started("refused", scope="capacity_pool", code="InsufficientInstanceCapacity").machine == "a1"
    assert requested(world, StartMachine) == ["b1"]
    for name in ("a1", "a2"):
        assert 20 <= world.machine(name).backoff.until - began <= 61, name
    assert world.machine("b1").wake_id == world.machine("a1").wake_id
    assert alarm(world, "a1") == "", "that happens every day"


@pytest.mark.parametrize("scope", ["account", "machine"])
def test_account_refusal_pauses_all_its_machines_for_a_minute_with_an_alarm(world: World, scope: RefusalScope) -> None:
    world.want()
    began = world.now
    world.started("refused", scope=scope, reason="AuthFailure: renew the credentials")
    assert requested(world, StartMachine) == ([] if scope == "account" else ["a2"])
    assert alarm(world, "a1") == "AuthFailure: renew the credentials"
    if scope == "account":
        wait(world, 58)
        assert requested(world, StartMachine) == []
        wait(world, 4)
        assert "a2" in requested(world, StartMachine), "it was not tried yet"
        assert world.now - began >= 60


def test_transient_refusal_does_not_count_as_an_attempt(world: World) -> None:
    world.want("n")
    for _ in range(LIMIT + 2):
        assert world.started("refused", scope="transient", code="IncorrectInstanceState").machine == "b1"
        b1 = world.machine("b1")
        assert (b1.state, b1.backoff.failed_wakes, starts(b1, "wake-1")) == ("asleep", 0, 0)
        wait(world, 4, "n")
        assert requested(world, StartMachine) == []
        wait(world, 2, "n")
    assert requested(world, StartMachine) == ["b1"]
    assert world.machine("b1").wake_id == "wake-1"


def test_stopping_machine_is_started_only_once_it_has_stopped(world: World) -> None:
    world.seen("b1", "stopping", after=30)
    world.want("n")
    wait(world, 30, "n")
    assert requested(world, StartMachine) == []
    world.seen("b1", "stopped")
    world.want("n")
    assert requested(world, StartMachine) == ["b1"]


def test_capacity_that_fails_after_the_start_was_accepted_goes_to_the_next_candidate(world: World) -> None:
    world.want()
    world.started()
    world.seen("a1", "starting", after=3, pool=POOLS["a1"])
    assert world.machine("a1").phase == "booting"
    world.seen(
        "a1", "stopped", after=3, scope="capacity_pool", reason="Server.InsufficientInstanceCapacity", pool=POOLS["a1"]
    )
    assert world.state("a1") == "asleep"
    assert starts(world.machine("a1"), "wake-1") == 1
    assert requested(world, StartMachine) == ["b1"], "a2 shares its pool"


@pytest.mark.parametrize("outcome", ["unknown", "failed", "accepted"])
def test_start_is_repeated_only_when_a_settled_observation_shows_no_trace(world: World, outcome: CallOutcome) -> None:
    world.want("n")
    for attempt in range(1, LIMIT + 1):
        start = world.started(outcome)
        assert (start.machine, start.generation) == ("b1", attempt)
        for _ in range(3):
            world.seen("b1", "stopped", after=3, pool=POOLS["b1"])
            assert requested(world, StartMachine) == []
        world.seen("b1", "stopped", after=2, pool=POOLS["b1"])
    assert world.state("b1") == "asleep"
    assert "started 3 times in this wake, which is the limit" in world.bucket["b1"][0].reason
    world.want("n")
    assert requested(world, StartMachine) == []


def test_a_start_in_doubt_that_happened_is_not_repeated(world: World) -> None:
    world.want()
    world.started("unknown")
    world.seen("a1", "starting", after=2)
    assert world.machine("a1").phase == "booting"
    world.seen("a1", "running", after=20)
    world.probed()
    world.probed()
    assert world.state("a1") == "ready"
    assert requested(world, StartMachine) == []


def test_hedge_starts_when_time_is_short_and_the_loser_hibernates(world: World) -> None:
    world.want()
    world.started()
    world.seen("a1", "starting", after=2)
    wait(world, CAP - CAP / 2 - 5 - 4)
    assert requested(world, StartMachine) == []
    wait(world, 5)
    assert world.started().machine == "a2"
    wait(world, 20)
    assert requested(world, StartMachine) == [], "two for one wake, and no more"
    world.seen("a2", "running", after=2)
    world.probed()
    world.probed()
    assert world.state("a2") == "ready"
    assert world.bucket["a1"][0].reason == "a2 was ready sooner"
    assert world.stopped().machine == "a1"


def test_hedge_time_follows_from_past_wakes(world: World) -> None:
    world.memory["tier.a"] = TierMemory(tier="a", phases={}, wakes=(100.0,) * 5, gaps=())
    world.begin({})
    world.want()
    world.started()
    wait(world, 14)
    assert requested(world, StartMachine) == []
    wait(world, 3)
    assert requested(world, StartMachine) == ["a2"], "100 s and a margin of 5 are needed, and 104 are left"


def test_no_hedge_starts_when_nobody_waits_any_more(world: World) -> None:
    world.want()
    world.started()
    world.seen("a1", "starting", after=2)
    world.want(waiting=0)
    world.pass_time(CAP - 10, step=1.0)
    assert requested(world, StartMachine) == []
    assert world.state("a1") == "waking"


def test_demand_while_it_falls_asleep_wakes_another_or_waits(world: World) -> None:
    world.ready("b1", "n")
    world.order("hibernate", "b1")
    world.pass_time(GATEWAYS_REPORTED)
    assert world.stopped().machine == "b1"
    world.want("n")
    assert requested(world, StartMachine) == []
    world.want("m")
    assert requested(world, StartMachine) == ["a1"]
    world.seen("b1", "stopping", after=5)
    world.want("n")
    assert requested(world, StartMachine) == ["a1"]
    world.seen("b1", "stopped", after=5)
    world.want("n")
    assert requested(world, StartMachine) == ["a1", "b1"]


GATEWAYS_REPORTED = 15.0
"""Past the time that a new leader gives gateways to be heard."""


def test_past_the_cap_it_is_put_to_sleep_and_the_waiters_get_a_new_attempt(world: World) -> None:
    world.want("n")
    world.started()
    world.seen("b1", "starting", after=2)
    wait(world, CAP, "n")
    assert "not ready within the wake's deadline" in world.bucket["b1"][0].reason
    assert requested(world, StopMachine) == ["b1"]
    world.stopped("refused", scope="transient")
    world.seen("b1", "running", after=5)
    world.pass_time(3, step=1.0)
    world.stopped()
    world.seen("b1", "stopped", after=20)
    wait(world, 21, "n")
    assert requested(world, StartMachine) == ["b1"]
    assert world.machine("b1").wake_id == "wake-2"


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_has_its_limit(phase: str) -> None:
    limits = {p: 15.0 if p == phase else CAP for p in PHASES}
    world = World(spec=spec(provider="ec2", phase_limits=limits, call_timeout_s=100.0, wake_cap_s=300.0))
    world.want()
    if phase != "calling":
        world.started()
        world.seen("a1", "starting", after=2)
    if phase not in ("calling", "booting"):
        world.seen("a1", "running", after=2)
        world.probed(answered=False, host=phase != "reaching")
    if phase == "first_token":
        world.pass_time(0.5)
        world.probed()
    assert world.machine("a1").phase == phase
    wait(world, 11)
    assert world.state("a1") == "waking"
    wait(world, 5)
    assert world.state("a1") == "falling_asleep"
    assert f"no further than {phase}" in world.bucket["a1"][0].reason
    assert world.machine("a2").wake_id == "wake-1", "the next candidate, in the same wake"
    invariants(world)


def test_a_start_under_way_is_awaited_before_the_stop_that_follows_it(world: World) -> None:
    """Or they overtake each other, and what comes up last bills."""
    world.want("n")
    (start,) = (e for e in world.effects if isinstance(e, StartMachine))
    world.order("hibernate", "b1")
    assert world.state("b1") == "falling_asleep"
    assert requested(world, StopMachine) == []
    world.started()
    assert requested(world, StopMachine) == ["b1"]
    assert [c for c in world.calls() if c[0] == "start"] == [("start", "accepted")]
    assert start.machine == "b1"


def test_a_start_whose_outcome_is_lost_is_not_awaited_for_ever(world: World) -> None:
    world.want("n")
    world.order("cordon", "b1")
    world.pass_time(36, step=1.0)
    assert requested(world, StopMachine) == ["b1"]
    assert ("start", "unknown") in world.calls()


def test_an_endpoint_that_is_no_engine_of_the_model_is_not_waited_for(world: World) -> None:
    world.want()
    world.started()
    world.seen("a1", "running", after=20)
    world.want()
    world.probed(mismatch="lists no model m, but other")
    assert world.state("a1") == "falling_asleep"
    assert world.bucket["a1"][0].reason == "its endpoint lists no model m, but other"
    assert requested(world, StartMachine) == ["a2"]


def test_the_network_is_up_when_anything_answers_and_ready_is_one_token(world: World) -> None:
    world.want()
    world.started()
    world.seen("a1", "starting", after=5)
    world.seen("a1", "running", after=20)
    world.probed(answered=False, host=False)
    assert world.machine("a1").phase == "reaching"
    world.pass_time(1)
    world.probed(answered=False, host=True)
    assert world.machine("a1").phase == "loading"
    world.pass_time(1)
    world.probed()
    assert world.machine("a1").phase == "first_token"
    world.probed()
    ended = [e.phase for e in world.journal if isinstance(e, PhaseEnded) and e.done]
    assert ended == list(PHASES)
    assert [e.tokens for e in world.journal if isinstance(e, ProviderCall) and e.call == "probe"] == [3]


def test_an_answer_of_a_probe_from_before_counts_for_nothing(world: World) -> None:
    world.want("n")
    world.started()
    world.seen("b1", "running", after=20)
    (probe,) = world.take(Probe)
    assert isinstance(probe, Probe)
    world.seen("b1", "stopped", after=20, reason="it ended")
    world.started()
    world.handle(Probed(machine="b1", serial=probe.serial, step="token", answered=True, seconds=1.0))
    assert world.state("b1") == "waking"
    assert world.machine("b1").phase == "booting"


def test_phase_in_which_a_machine_failed_and_was_started_again_was_not_passed(world: World) -> None:
    world.want("n")
    world.started()
    world.seen("b1", "running", after=20)
    world.seen("b1", "stopped", after=20, reason="it ended")
    ended = [(e.phase, e.done) for e in world.journal if isinstance(e, PhaseEnded)]
    assert ended == [("calling", True), ("booting", True), ("reaching", False)]
    assert "reaching" not in world.fleet.history[world.machine("b1").spec.tier].phases


def test_a_locked_machine_is_no_candidate(world: World) -> None:
    world.seen("a1", "stopped", locked="EC2 stopped it, and only EC2 may start it again", after=30)
    world.want()
    assert requested(world, StartMachine) == ["a2"]


def test_the_eta_and_the_history_survive_a_new_leader(world: World) -> None:
    world.ready()
    taken = world.fleet.history["a"].wakes
    assert len(taken) == 1
    world.order("hibernate", "a1")
    world.pass_time(GATEWAYS_REPORTED)
    world.stopped()
    world.seen("a1", "stopped", after=20)
    world.now += 100
    world.begin({})
    assert world.fleet.history["a"].wakes == taken
    world.want()
    at = world.bucket["a1"][0].ready_at
    assert at is not None
    assert at - world.now == pytest.approx(taken[0], abs=1.0)


def test_a_wake_goes_on_under_a_new_leader_with_its_deadline_and_its_count(world: World) -> None:
    world.want()
    world.started()
    deadline = world.deadline("a1")
    world.now += 5
    off = {name: world.machine(name).observation for name in POOLS}
    world.begin({name: observation for name, observation in off.items() if observation})
    assert (world.state("a1"), world.machine("a1").phase) == ("waking", "calling")
    assert requested(world, StartMachine) == [], "what was called may be invisible for a moment"
    world.seen("a1", "stopped", after=SETTLE + 1)
    assert requested(world, StartMachine) == ["a1"]
    assert (world.deadline("a1"), world.machine("a1").starts.by_wake) == (deadline, {"wake-1": 2})
    reasons = [e.reason for e in world.journal if isinstance(e, Transition) and e.machine == "a1"]
    assert reasons == ["seen for the first time", "requests wait for m"]


def test_machine_that_ends_stopped_and_billed_is_started_again(world: World) -> None:
    world.want()
    world.started()
    world.seen("a1", "starting", after=5)
    world.seen("a1", "stopped_billed", after=20)
    assert requested(world, StartMachine) == ["a1"]
    assert world.state("a1") == "waking"


def test_a_new_leader_leaves_alone_what_refused_the_one_before(world: World) -> None:
    world.want()
    world.started("refused", scope="capacity_pool")
    seen = {name: observation for name in POOLS if (observation := world.machine(name).observation)}
    cool = {name: world.machine(name).backoff.until for name in ("a1", "a2")}
    world.now += 1
    world.begin(seen)
    assert {name: world.machine(name).backoff.until for name in cool} == cool
    world.want()
    assert requested(world, StartMachine) == []
    assert [world.state(name) for name in POOLS] == ["asleep", "asleep", "waking"], "b1 may come up at the other's word"


def snapshot(world: World, seconds: float) -> int:
    world.take(Observe)
    world.pass_time(seconds, step=1.0)
    return len(world.take(Observe))


def test_account_is_observed_fast_only_while_a_machine_changes(world: World) -> None:
    assert snapshot(world, 60) == pytest.approx(3, abs=1)
    world.seen("a2", "stopping")
    assert snapshot(world, 60) == pytest.approx(30, abs=2), "nobody asked it to sleep, and somebody may want it back"
    world.seen("a2", "stopped")
    world.want()
    world.started()
    assert snapshot(world, 20) == pytest.approx(10, abs=2)
    world.seen("a1", "running")
    world.probed()
    world.probed()
    assert snapshot(world, 40) == pytest.approx(2, abs=1)
