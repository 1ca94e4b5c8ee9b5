"""The replay of requests through idle policies: by hand, and by what must hold for any."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.waker.core.idle import IdleSettings
from shared.config.fleet import IdlePolicy
from shared.weekly_window import parse_window
from spotinference.plan.replay import (
    Outcome,
    Traffic,
    peak_concurrency,
    replay,
    replay_always_on,
    replay_clairvoyant,
    scheduled_spans,
)

DAY_S = 86400.0
WAKE = 100.0
HAND = Traffic(span=(0.0, 10_000.0), arrivals=(1000.0, 1050.0, 1500.0, 5000.0), seconds=(10.0, 10.0, 20.0, 30.0))
"""Served without waiting: 1000 to 1010, 1050 to 1060, 1500 to 1520, 5000 to 5030."""


def fixed(seconds: float) -> IdleSettings:
    return IdleSettings(policy="fixed", timeout=seconds)


def reply(outcome: Outcome) -> tuple[float, int, tuple[float, ...], float]:
    return outcome.awake, outcome.wakes, outcome.waits, outcome.waiting


def test_always_on_by_hand() -> None:
    assert reply(replay_always_on(HAND, WAKE)) == (10_000.0, 1, (), 0.0)


def test_always_on_keeps_those_waiting_who_come_during_its_first_wake() -> None:
    early = Traffic(span=(0.0, 1000.0), arrivals=(30.0, 40.0, 500.0), seconds=(1.0, 1.0, 1.0))
    assert reply(replay_always_on(early, WAKE)) == (1000.0, 1, (60.0, 70.0), 70.0)


def test_fixed_by_hand() -> None:
    # Woken at 1000 and ready at 1100, both served by 1110; idle until 1500, served by 1520; asleep at 2020.
    # Woken at 5000, ready at 5100, served by 5130, asleep at 5630.
    assert reply(replay(HAND, fixed(500.0), WAKE)) == (1020.0 + 630.0, 2, (50.0, 100.0, 100.0), 200.0)


def test_a_shorter_timeout_by_hand() -> None:
    # 1000 to 1110 and 60 more; 1500 to 1620 and 60 more; 5000 to 5130 and 60 more.
    assert reply(replay(HAND, fixed(60.0), WAKE)) == (170.0 + 180.0 + 190.0, 3, (50.0, 100.0, 100.0, 100.0), 300.0)


def test_a_gap_as_long_as_the_timeout_is_sat_out() -> None:
    assert replay(HAND, fixed(390.0), WAKE).wakes == 2
    assert replay(HAND, fixed(389.0), WAKE).wakes == 3


def test_break_even_by_hand() -> None:
    # A second of waiting is worth as much as two of idleness: it stays for three wakes, which is 300 s.
    plan = IdleSettings(policy="break_even", timeout=9.0, idle_price=0.001, wait_price=0.002)
    # 1000 to 1110 and 300 more; 1500 to 1620 and 300 more; 5000 to 5130 and 300 more.
    outcome = replay(HAND, plan, WAKE)
    assert outcome.awake == pytest.approx(410.0 + 420.0 + 430.0)
    assert outcome.wakes == 3


def test_clairvoyant_by_hand() -> None:
    # 900 to 1060 with the gap of 40 s sat out; 1400 to 1520; 4900 to 5030.
    assert reply(replay_clairvoyant(HAND, WAKE)) == (160.0 + 120.0 + 130.0, 3, (), 0.0)


def test_the_one_who_knows_sits_out_a_gap_as_long_as_a_wake() -> None:
    assert replay_clairvoyant(HAND, 440.0).wakes == 2
    assert replay_clairvoyant(HAND, 439.0).wakes == 3


def test_what_is_served_after_the_end_is_not_counted() -> None:
    late = Traffic(span=(0.0, 1000.0), arrivals=(950.0,), seconds=(200.0,))
    assert reply(replay_clairvoyant(late, WAKE)) == (150.0, 1, (), 0.0)
    assert reply(replay(late, fixed(60.0), WAKE)) == (50.0, 1, (100.0,), 100.0)


def test_the_least_time_awake_by_hand() -> None:
    # Ready at 1100, so not asleep before 1900; ready at 5100, asleep at 5900.
    plan = replace(fixed(60.0), min_awake=800.0)
    assert reply(replay(HAND, plan, WAKE))[:2] == (900.0 + 900.0, 2)


def test_cycles_by_hand() -> None:
    # Woken at 1000 and 1500: it stays until 4600. Woken at 5000: 1500 is 3500 s ago, and it stays until 5100.
    plan = replace(fixed(60.0), max_cycles_per_hour=2)
    assert reply(replay(HAND, plan, WAKE))[:2] == (170.0 + 3100.0 + 190.0, 3)
    assert reply(replay(HAND, replace(plan, max_cycles_per_hour=1), WAKE))[:2] == (3600.0 + 3600.0, 2)


def test_a_schedule_by_hand() -> None:
    # Warm from 900 to 1200 and from 3000 to 3300 without a request.
    spans = [(900.0, 1200.0), (3000.0, 3300.0)]
    outcome = replay(HAND, fixed(60.0), WAKE, spans)
    # 900 to 1200; 1500 to 1680; 3000 to 3300; 5000 to 5190.
    assert reply(outcome) == (300.0 + 180.0 + 300.0 + 190.0, 4, (100.0, 100.0), 200.0)


def test_a_schedule_that_begins_before_the_span_or_ends_after_it() -> None:
    nobody = Traffic(span=(100.0, 1000.0), arrivals=(), seconds=())
    assert reply(replay(nobody, fixed(0.0), WAKE, [(0.0, 400.0), (900.0, 5000.0)])) == (400.0, 2, (), 0.0)


def test_the_histogram_wakes_ahead_once_it_knows_the_gaps() -> None:
    # One request of a second at each hour: gaps of 3599 s less the wait, 59 whole minutes or 58.
    hours = 30
    arrivals = [3600.0 * n for n in range(1, hours + 1)]
    traffic = Traffic(span=(0.0, 3600.0 * (hours + 1)), arrivals=arrivals, seconds=[1.0] * hours)
    outcome = replay(traffic, IdleSettings(policy="histogram", timeout=900.0), WAKE)
    # Ten gaps have to be seen, and the first request is the beginning of none: eleven wait.
    assert outcome.waits == (WAKE,) * 11
    assert outcome.wakes == hours + 1
    # Ten times a wake, a second and the timeout; the eleventh knows: a minute. Nineteen times it is ready by the head,
    # 58 minutes less a tenth after the last use, and stays a minute after use. The last is for nobody: head to tail.
    head = 58 * 60 * 0.9
    ahead = [3600.0 - 1.0 - (head - WAKE)] * 18 + [3600.0 - 1.0 - WAKE - (head - WAKE)]
    last = WAKE + (59 + 0.0) * 60 * 1.1 - head
    expected = (
        10 * (WAKE + 1 + 900) + (WAKE + 1 + 60) + sum(a + 1 + 60 for a in ahead) + min(last, 3600.0 - 1 - head + WAKE)
    )
    assert outcome.awake == pytest.approx(expected, abs=1.0)


def test_waits_are_of_all_requests() -> None:
    outcome = Outcome(awake=0.0, asleep=0.0, wakes=1, requests=100, waits=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), waiting=6.0)
    assert [outcome.wait(q) for q in (0.5, 0.94, 0.95, 0.99, 1.0)] == [0.0, 0.0, 1.0, 5.0, 6.0]
    assert replace(outcome, requests=7).wait(0.3) == 2.0
    assert Outcome(awake=0.0, asleep=0.0, wakes=0, requests=0, waits=(), waiting=0.0).wait(0.99) == 0.0


def test_most_at_once_by_hand() -> None:
    assert peak_concurrency(HAND) == 1
    assert peak_concurrency(Traffic(span=(0, 9), arrivals=(1, 2, 3, 4), seconds=(9, 1, 1, 5))) == 2
    assert peak_concurrency(Traffic(span=(0, 9), arrivals=(1, 1, 1), seconds=(0, 2, 2))) == 2
    assert peak_concurrency(Traffic(span=(0, 9), arrivals=(1, 2), seconds=(0, 0))) == 1
    assert peak_concurrency(Traffic(span=(0, 9), arrivals=(), seconds=())) == 0


def test_warm_spans_are_the_windows_within_the_span() -> None:
    # 1970-01-01 was a Thursday.
    plan = replace(fixed(1.0), keep_warm=(parse_window("thu 01:00-02:00"), parse_window("daily 01:30-03:00")))
    assert scheduled_spans(plan, (0.0, 2 * DAY_S)) == [(3600.0, 10_800.0), (DAY_S + 5400.0, DAY_S + 10_800.0)]
    assert scheduled_spans(plan, (4000.0, 4100.0)) == [(4000.0, 4100.0)]
    assert scheduled_spans(plan, (3590.0, 4100.0)) == [(3600.0, 4100.0)]
    assert scheduled_spans(fixed(1.0), (0.0, DAY_S)) == []


# what must hold for any traffic

END = 400_000.0
QUIET = 20_000.0
"""At the end: longer than any wake and timeout below, so that every machine is asleep by then."""


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    gaps = st.sampled_from((0.0, 1.0, 50.0, 150.0, 700.0, 3000.0, 3600.0)) | st.floats(0.0, 9000.0)
    steps = draw(st.lists(st.tuples(gaps, st.sampled_from((0.0, 1.0, 30.0, 400.0))), max_size=40))
    arrivals, at = list[float](), 0.0
    for gap, _ in steps:
        at += gap
        arrivals.append(at)
    return Traffic(span=(0.0, END), arrivals=arrivals, seconds=[seconds for _, seconds in steps])


def plans(least: float) -> st.SearchStrategy[IdleSettings]:
    policies: list[IdlePolicy] = ["fixed", "break_even", "histogram"]
    return st.builds(
        IdleSettings,
        policy=st.sampled_from(policies),
        timeout=st.floats(least, 4000.0),
        min_awake=st.sampled_from((0.0, 300.0)),
        max_cycles_per_hour=st.none() | st.integers(1, 3),
        idle_price=st.none() | st.just(0.001),
        wait_price=st.sampled_from((0.0, 0.001)),
    )


@given(traffic=traffics(), plan=plans(0.0), wake=st.floats(0.0, 1000.0))
def test_hours_add_up_and_nobody_waits_longer_than_a_wake(traffic: Traffic, plan: IdleSettings, wake: float) -> None:
    outcome = replay(traffic, plan, wake)
    assert outcome.awake + outcome.asleep == pytest.approx(END)
    assert 0.0 <= outcome.awake <= END
    assert outcome.wakes * wake <= outcome.awake + 1e-6
    assert served_seconds(traffic) <= outcome.awake + sum(outcome.waits) + 1e-6
    assert all(0.0 < wait <= wake + 1e-6 for wait in outcome.waits)
    assert list(outcome.waits) == sorted(outcome.waits)
    assert outcome.waiting <= outcome.wakes * wake + 1e-6
    assert replay(traffic, plan, wake) == outcome


def served_seconds(traffic: Traffic) -> float:
    """While at least one request was with its machine, had none waited."""
    total, until = 0.0, 0.0
    for arrived, seconds in zip(traffic.arrivals, traffic.seconds, strict=True):
        total += max(0.0, arrived + seconds - max(arrived, until))
        until = max(until, arrived + seconds)
    return total


@given(traffic=traffics(), plan=plans(0.0), wake=st.floats(0.0, 1000.0))
def test_fixed_timeout_matches_its_definition(traffic: Traffic, plan: IdleSettings, wake: float) -> None:
    """An oracle that merges what is served while the timeout lasts."""
    simple = IdleSettings(policy="fixed", timeout=plan.timeout)
    busy: list[tuple[float, float]] = []
    waits, ready = 0, 0.0
    for arrived, seconds in zip(traffic.arrivals, traffic.seconds, strict=True):
        if not busy or arrived > busy[-1][1] + simple.timeout:
            busy.append((arrived, arrived + wake))
            ready = arrived + wake
        begun = max(arrived, ready)
        waits += begun > arrived
        busy[-1] = (busy[-1][0], max(busy[-1][1], begun + seconds))
    outcome = replay(traffic, simple, wake)
    assert outcome.wakes == len(busy)
    assert len(outcome.waits) == waits
    assert outcome.awake == pytest.approx(sum(end + simple.timeout - begin for begin, end in busy), abs=1e-3)


@given(traffic=traffics(), wake=st.floats(0.0, 1000.0), price=st.floats(1e-5, 0.01))
def test_break_even_is_awake_at_most_twice_as_long_as_one_who_knows(
    traffic: Traffic, wake: float, price: float
) -> None:
    plan = IdleSettings(policy="break_even", timeout=900.0, idle_price=price)
    assert replay(traffic, plan, wake).awake <= 2 * replay_clairvoyant(traffic, wake).awake + 1e-3


@given(traffic=traffics(), plan=plans(1000.0), wake=st.floats(0.0, 1000.0))
def test_nobody_who_stays_for_a_wake_is_awake_shorter_than_one_who_knows(
    traffic: Traffic, plan: IdleSettings, wake: float
) -> None:
    """A policy that sleeps sooner may be: it lets requests wait, and serves them together."""
    best = replay_clairvoyant(traffic, wake)
    if plan.policy != "histogram":
        assert best.awake <= replay(traffic, plan, wake).awake + 1e-3
    assert best.awake <= replay_always_on(traffic, wake).awake
    assert len(best.waits) == sum(arrived < wake for arrived in traffic.arrivals)


@given(traffic=traffics(), wake=st.floats(0.0, 1000.0))
def test_always_on_lets_wait_only_in_its_first_wake(traffic: Traffic, wake: float) -> None:
    outcome = replay_always_on(traffic, wake)
    assert outcome.awake == END
    assert len(outcome.waits) == sum(arrived < wake for arrived in traffic.arrivals)


@given(traffic=traffics(), wake=st.floats(0.0, 1000.0), plan=plans(0.0))
def test_a_schedule_keeps_it_awake_in_all_of_its_spans(traffic: Traffic, wake: float, plan: IdleSettings) -> None:
    """Whoever comes in a span, a wake after its beginning or later, does not wait."""
    spans = [(n * DAY_S + 10_000.0, n * DAY_S + 40_000.0) for n in range(4)]
    scheduled = replay(traffic, plan, wake, spans)
    assert scheduled.awake >= sum(end - begin for begin, end in spans) - 1e-6
    inside = sum(any(a + wake <= at <= b for a, b in spans) for at in traffic.arrivals)
    assert len(scheduled.waits) <= len(traffic.arrivals) - inside
    assert all(before[1] < after[0] for before, after in pairwise(spans))
