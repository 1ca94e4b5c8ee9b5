"""Engines that do not become ready: left alone for longer each time, with an alarm from the second time on."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.waker.core.events import Probe, StartMachine
from services.waker.core.unready import BACKOFF_LIMIT_S, backoff_s
from shared.messages.waker import ProviderCall, Transition
from tests.unit.waker.fleets import CAP, World, answering, beginning, invariants, spec

HOUR = 3600.0


@pytest.fixture
def world() -> Iterator[World]:
    world = World(spec=spec(provider="ec2"))
    yield world
    invariants(world)


def silent_wake(world: World, model: str = "n", name: str = "b1") -> None:
    """The operator wants the model; its machine comes up, and its engine never gets ready."""
    assert world.started().machine == name
    world.seen(name, "running", after=20.0)
    while world.state(name) == "waking":
        world.pass_time(5.0, step=5.0)
        for _ in world.take(Probe):
            pass
    assert model in world.fleet.operator_wakes
    world.stopped()
    world.seen(name, "stopped", after=1.0)
    assert world.state(name) == "asleep"


def until_started(world: World) -> float:
    """Seconds until a start is asked for."""
    began = world.now
    while not any(isinstance(e, StartMachine) for e in world.effects):
        world.pass_time(5.0, step=5.0)
        assert world.now - began < 2 * HOUR
    return world.now - began


def test_an_engine_that_never_gets_ready_is_tried_more_and_more_rarely_up_to_an_hour(world: World) -> None:
    world.order("wake", "n")
    pauses = []
    for _ in range(11):
        silent_wake(world)
        pauses.append(until_started(world))
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[0] < 60
    assert HOUR - 60 <= pauses[-1] <= HOUR


def test_an_alarm_is_raised_from_the_second_time_on(world: World) -> None:
    world.order("wake", "n")
    silent_wake(world)
    assert world.bucket["b1"][0].alarm == ""
    assert world.bucket["b1"][0].failed_wakes == 1
    until_started(world)
    silent_wake(world)
    record = world.bucket["b1"][0]
    assert record.alarm.startswith("its engine did not become ready in 2 wakes in a row: not ready within the wake's")
    assert "not tried again before 1970-01-01T" in record.alarm
    entries = [e.reason for e in world.journal if isinstance(e, Transition) and e.to_state == "falling_asleep"]
    assert "wake 2 in a row without a ready engine, the next one not within 40 s" in entries[-1]
    until_started(world)
    assert world.state("b1") == "waking"
    assert "2 wakes in a row" in world.bucket["b1"][0].alarm, "the alarm stays while it is tried"


def test_a_ready_engine_ends_the_pauses_and_the_alarm(world: World) -> None:
    world.order("wake", "n")
    for _ in range(2):
        silent_wake(world)
        until_started(world)
    world.started()
    world.seen("b1", "running", after=20.0)
    answering(world, 5, until="ready", name="b1")
    record = world.bucket["b1"][0]
    assert (record.state, record.alarm, record.failed_wakes) == ("ready", "", 0)


def test_pauses_and_alarm_survive_a_change_of_leader(world: World) -> None:
    world.order("wake", "n")
    for _ in range(4):
        silent_wake(world)
        until_started(world)
    silent_wake(world)
    cool_until, alarm = world.machine("b1").backoff.until, world.bucket["b1"][0].alarm
    world.now += 1.0
    beginning(world)
    assert world.machine("b1").backoff.until == cool_until
    assert world.bucket["b1"][0].alarm == alarm
    assert world.machine("b1").alarm == "", "it is worked out anew, and ends with what it is about"
    world.pass_time(100.0, step=5.0)
    assert not world.take(StartMachine)


def test_the_operators_wake_tries_it_at_once(world: World) -> None:
    world.order("wake", "n")
    for _ in range(4):
        silent_wake(world)
        until_started(world)
    silent_wake(world)
    world.pass_time(5.0)
    assert not world.take(StartMachine)
    world.order("wake", "n")
    assert world.started().machine == "b1"
    assert world.bucket["b1"][0].alarm == ""


def test_an_engine_that_ends_at_once_is_left_alone_after_its_starts(world: World) -> None:
    local = World()
    local.order("wake", "n")
    for times in (1, 2):
        until_started(local)
        for _ in range(3):
            assert local.started().machine == "b1"
            local.seen("b1", "stopped", reason="the engine ended with exit status 1")
        assert local.bucket["b1"][0].failed_wakes == times
    assert "the engine ended with exit status 1" in local.bucket["b1"][0].alarm
    assert local.machine("b1").backoff.until == pytest.approx(local.now + 40, abs=1)
    invariants(local)


def test_others_of_the_lineup_are_tried_meanwhile() -> None:
    world = World()
    world.want("m", lasts=CAP)
    world.started()
    world.seen("a1", "stopped", reason="exit status 1")
    assert world.machine("a1").backoff.unready_wakes == 1, "it had its try, and another takes its place"
    assert world.started().machine == "a2"
    assert world.machine("a2").backoff.unready_wakes == 0


def test_a_machine_that_came_late_into_its_wake_is_not_blamed() -> None:
    world = World()
    world.want("n")
    world.started("refused", reason="no")
    while not any(isinstance(e, StartMachine) for e in world.effects) or world.now < 1000 + CAP * 0.6:
        world.pass_time(1.0)
        world.want("n")
        if any(isinstance(e, StartMachine) for e in world.effects) and world.now < 1000 + CAP * 0.6:
            world.started("refused", reason="no", scope="transient")
    world.started()
    while world.state("b1") == "waking":
        world.want("n")
        world.pass_time(1.0)
        world.take(Probe)
    assert "not ready within the wake's deadline" in world.bucket["b1"][0].reason
    assert world.machine("b1").backoff.unready_wakes == 0


def test_unready_engine_reports_its_newest_reason_at_a_bounded_rate() -> None:
    world = World(spec=spec(static=True))
    for number in range(200):
        world.want("o")
        world.pass_time(1.0)
        while any(isinstance(e, Probe) for e in world.effects):
            (probe,) = [e for e in world.effects if isinstance(e, Probe)]
            if probe.step == "reach":
                world.probed()
            else:
                world.probed(answered=False, code=f"501 attempt {number}")
    record = world.bucket["s1"][0]
    assert record.state == "broken"
    newest = int(record.alarm.rpartition(" ")[2])
    assert newest > 180, "the newest reason, not the first"
    assert record.reason == record.alarm
    entries = [e for e in world.journal if isinstance(e, ProviderCall) and e.call == "probe"]
    assert len(entries) <= (world.now - 1000.0) / 10 + 1
    invariants(world)


def test_waking_machine_records_why_its_engine_is_unready() -> None:
    world = World()
    world.want("n")
    world.started()
    world.probed()
    world.probed(answered=False, code="500 out of memory")
    assert world.bucket["b1"][0].reason.endswith("500 out of memory")
    world.pass_time(0.3)
    world.probed(answered=False, code="500 another word")
    assert world.bucket["b1"][0].reason.endswith("500 out of memory"), "not at each probe"
    world.pass_time(11)
    world.probed(answered=False, code="500 the last word")
    assert world.bucket["b1"][0].reason.endswith("500 the last word")


@given(st.integers(1, 10_000))
def test_the_backoff_rises_to_its_limit(times: int) -> None:
    assert 0 < backoff_s(times) <= backoff_s(times + 1) <= BACKOFF_LIMIT_S
