"""When a machine that nobody uses sleeps, and when its tier is woken ahead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.waker.core.idle import (
    BINS,
    MAX_GAPS,
    IdleSettings,
    Past,
    break_even,
    idle_settings,
    is_scheduled,
    pattern,
    sleep_at,
    wake_at,
    with_gap,
)
from shared.config.fleet import IdlePolicy
from shared.config.load import parse
from shared.units import HOUR_S, MINUTE_S
from shared.weekly_window import parse_window

FIXED = IdleSettings(policy="fixed", timeout=900.0)


def gaps(**counts: int) -> tuple[int, ...]:
    """`gaps(m45=20)`: twenty gaps of 45 whole minutes."""
    result: tuple[int, ...] = ()
    for name, count in counts.items():
        for _ in range(count):
            result = with_gap(result, int(name[1:]) * MINUTE_S)
    return result


def even(minutes: int, *, each: int = 1) -> tuple[int, ...]:
    return (0, *[each] * minutes)


def slept(plan: IdleSettings, past: Past, *, ready: float = 0.0, idle: float = 1000.0) -> float:
    """Seconds from the last use to sleep."""
    return sleep_at(plan, past, ready_since=ready, idle_since=idle) - idle


# fixed, and the bounds that every policy has


def test_fixed_counts_from_the_last_use() -> None:
    assert sleep_at(FIXED, Past(), ready_since=0.0, idle_since=1000.0) == 1900.0


def test_a_machine_stays_for_its_least_time_awake() -> None:
    plan = IdleSettings(policy="fixed", timeout=60.0, min_awake=600.0)
    assert sleep_at(plan, Past(), ready_since=100.0, idle_since=200.0) == 700.0
    assert sleep_at(plan, Past(), ready_since=100.0, idle_since=900.0) == 960.0


def test_after_the_last_wake_of_the_hour_it_stays_until_the_first_is_an_hour_old() -> None:
    plan = IdleSettings(policy="fixed", timeout=60.0, max_cycles_per_hour=2)
    ready = 5000.0
    assert sleep_at(plan, Past(), ready_since=ready, idle_since=ready, wakes_at=(4900.0,)) == ready + 60.0
    assert sleep_at(plan, Past(), ready_since=ready, idle_since=ready, wakes_at=(3000.0, 4900.0)) == 3000.0 + HOUR_S
    assert (
        sleep_at(plan, Past(), ready_since=ready, idle_since=ready, wakes_at=(4900.0, 2000.0, 3000.0))
        == 3000.0 + HOUR_S
    )
    assert sleep_at(plan, Past(), ready_since=ready, idle_since=ready, wakes_at=(100.0, 200.0)) == ready + 60.0


# break_even


def test_break_even_without_waiting_is_the_usual_wake() -> None:
    plan = IdleSettings(policy="break_even", timeout=900.0, idle_price=4.98 / HOUR_S)
    assert slept(plan, Past(wakes=(100.0, 150.0, 400.0))) == pytest.approx(150.0)


def test_a_dime_of_waiting_adds_72_seconds_to_a_machine_of_5_dollars() -> None:
    plan = IdleSettings(policy="break_even", timeout=900.0, idle_price=5.0 / HOUR_S, wait_price=0.10 / 150.0)
    assert slept(plan, Past(wakes=(150.0,))) == pytest.approx(150.0 + 72.0)


def test_break_even_without_price_or_history_is_the_timeout() -> None:
    assert slept(IdleSettings(policy="break_even", timeout=900.0), Past(wakes=(150.0,))) == 900.0
    assert slept(IdleSettings(policy="break_even", timeout=900.0, idle_price=0.001), Past()) == 900.0


@given(
    trace=st.lists(st.floats(0.0, 50_000.0), min_size=1),
    wake=st.floats(0.1, 2000.0),
    idle_price=st.floats(1e-5, 0.01),
    wait_price=st.floats(0.0, 0.1),
)
def test_break_even_costs_at_most_twice_what_knowing_the_gaps_would(
    trace: list[float], wake: float, idle_price: float, wait_price: float
) -> None:
    """Waiting included, where the one who knows may not wake ahead either."""
    plan = IdleSettings(policy="break_even", timeout=900.0, idle_price=idle_price, wait_price=wait_price)
    past = Past(wakes=(wake,))
    wake_cost = wake * (idle_price + wait_price)
    keep = slept(plan, past)
    paid = sum(gap * idle_price if gap <= keep else keep * idle_price + wake_cost for gap in trace)
    assert paid <= 2 * sum(min(gap * idle_price, wake_cost) for gap in trace) * (1 + 1e-6)


# histogram


def test_with_gap_counts_whole_minutes_and_longer_gaps_in_the_last_bin() -> None:
    assert with_gap((), 59.9) == ()
    counts = with_gap(with_gap(with_gap((), 60.0), 119.9), 121.0)
    assert counts[:4] == (0, 2, 1, 0)
    assert len(counts) == BINS + 1
    assert with_gap((), 239 * MINUTE_S + 59)[BINS - 1] == 1
    assert with_gap((), 240 * MINUTE_S)[BINS] == 1
    assert with_gap((), 1e9)[BINS] == 1


def test_with_gap_halves_all_counts_at_its_limit() -> None:
    counts: tuple[int, ...] = ()
    for _ in range(3 * MAX_GAPS):
        counts = with_gap(counts, 300.0)
        assert sum(counts) < MAX_GAPS
    for _ in range(3 * MAX_GAPS):
        counts = with_gap(counts, 3000.0)
    assert counts[5] < counts[50] / 5


def test_a_pattern_goes_from_the_5th_to_the_99th_percentile_with_a_tenth_more() -> None:
    result = pattern(Past(gaps=gaps(m10=5, m30=94, m50=1)))
    assert result == pytest.approx((10 * MINUTE_S * 0.9, 31 * MINUTE_S * 1.1))
    result = pattern(Past(gaps=gaps(m10=4, m30=94, m50=2)))
    assert result == pytest.approx((30 * MINUTE_S * 0.9, 51 * MINUTE_S * 1.1))


def test_no_pattern_in_too_few_too_long_or_too_even_gaps() -> None:
    assert pattern(Past(gaps=gaps(m30=9))) is None
    assert pattern(Past(gaps=gaps(m30=10))) is not None
    assert pattern(Past(gaps=gaps(m30=10, m300=11))) is None
    assert pattern(Past(gaps=gaps(m30=10, m300=10))) is not None
    # The coefficient of variation of n equal bins out of 240 is sqrt(240 / n - 1): 2 at 48.
    assert pattern(Past(gaps=even(48))) is not None
    assert pattern(Past(gaps=even(49))) is None


HISTOGRAM = IdleSettings(policy="histogram", timeout=900.0)


def test_histogram_without_a_pattern_is_the_timeout() -> None:
    past = Past(gaps=gaps(m30=9), wakes=(100.0,))
    assert slept(HISTOGRAM, past) == 900.0
    assert wake_at(HISTOGRAM, past, idle_since=0.0, asleep_since=60.0) is None


def test_short_gaps_keep_it_awake_until_the_tail() -> None:
    past = Past(gaps=gaps(m4=100), wakes=(100.0,))
    assert slept(HISTOGRAM, past) == pytest.approx(5 * MINUTE_S * 1.1)
    assert wake_at(HISTOGRAM, past, idle_since=0.0, asleep_since=400.0) is None


def test_long_gaps_let_it_sleep_after_a_minute_and_be_ready_by_the_head() -> None:
    past = Past(gaps=gaps(m60=100), wakes=(100.0, 120.0, 500.0))
    assert slept(HISTOGRAM, past) == MINUTE_S
    assert wake_at(HISTOGRAM, past, idle_since=1000.0, asleep_since=1060.0) == pytest.approx(1000.0 + 3240.0 - 120.0)


def test_woken_ahead_it_stays_from_the_head_to_the_tail() -> None:
    past = Past(gaps=gaps(m60=100), wakes=(120.0,))
    tail = 61 * MINUTE_S * 1.1
    assert sleep_at(HISTOGRAM, past, ready_since=4240.0, idle_since=4240.0) == pytest.approx(1000.0 + tail)


def test_it_is_woken_ahead_only_once_in_a_gap() -> None:
    past = Past(gaps=gaps(m60=100), wakes=(120.0,))
    assert wake_at(HISTOGRAM, past, idle_since=1000.0, asleep_since=1000.0 + 61 * MINUTE_S * 1.1) is None


def test_a_sleep_that_is_shorter_than_its_wake_does_not_pay() -> None:
    # The head is 540 s: a sleep of 540 - 60 - w seconds against a wake of w.
    pays = Past(gaps=gaps(m10=100), wakes=(239.0,))
    not_worth_it = Past(gaps=gaps(m10=100), wakes=(240.0,))
    assert slept(HISTOGRAM, pays) == MINUTE_S
    assert slept(HISTOGRAM, not_worth_it) == pytest.approx(11 * MINUTE_S * 1.1)
    assert wake_at(HISTOGRAM, not_worth_it, idle_since=0.0, asleep_since=1.0) is None


def test_without_past_wakes_nothing_is_woken_ahead() -> None:
    past = Past(gaps=gaps(m60=100))
    assert wake_at(HISTOGRAM, past, idle_since=0.0, asleep_since=60.0) is None
    assert slept(HISTOGRAM, past) == pytest.approx(61 * MINUTE_S * 1.1)


def test_other_policies_wake_on_demand() -> None:
    past = Past(gaps=gaps(m60=100), wakes=(120.0,))
    assert wake_at(FIXED, past, idle_since=0.0, asleep_since=60.0) is None


# schedules and configuration


def test_any_window_keeps_it_warm() -> None:
    plan = IdleSettings(
        policy="fixed",
        timeout=900.0,
        keep_warm=(parse_window("mon 00:00-01:00"), parse_window("thu 05:00-06:00")),
    )
    assert is_scheduled(plan, 5.5 * HOUR_S)  # 1970-01-01 was a Thursday
    assert is_scheduled(plan, 4 * 24 * HOUR_S)
    assert not is_scheduled(plan, 6 * HOUR_S)
    assert not is_scheduled(FIXED, 5.5 * HOUR_S)


CONFIG = """
[waker]
idle_policy = "histogram"
idle_timeout = "10m"
min_awake = "5m"
max_cycles_per_hour = 4
keep_warm = ["mon-fri 09:00-18:00"]
wait_price_per_minute = "0.60"
[[tier]]
name = "heir"
provider = "static"
price_per_hour = "5.00"
asleep_price_per_hour = "1.40"
[[tier]]
name = "own"
provider = "static"
idle_policy = "break_even"
idle_timeout = "0s"
min_awake = "0s"
max_cycles_per_hour = 2
keep_warm = []
price_per_hour = "1.00"
asleep_price_per_hour = "1.00"
"""


def test_tier_inherits_the_wakers_settings() -> None:
    config = parse(CONFIG, "test")
    heir, own = (idle_settings(config, tier) for tier in config.tier)
    assert heir == IdleSettings(
        policy="histogram",
        timeout=600.0,
        min_awake=300.0,
        unused_awake=300.0,
        max_cycles_per_hour=4,
        keep_warm=(parse_window("mon-fri 09:00-18:00"),),
        idle_price=3.6 / HOUR_S,
        wait_price=0.6 / MINUTE_S,
    )
    # What costs as much asleep has no price of idleness to break even with.
    assert own == IdleSettings(
        policy="break_even", timeout=0.0, unused_awake=0.0, max_cycles_per_hour=2, wait_price=0.6 / MINUTE_S
    )
    assert break_even(own, Past(wakes=(10.0,))) is None


# properties of all policies


@st.composite
def plans(draw: st.DrawFn) -> IdleSettings:
    policies: list[IdlePolicy] = ["fixed", "break_even", "histogram"]
    return IdleSettings(
        policy=draw(st.sampled_from(policies)),
        timeout=draw(st.floats(0.0, 5000.0)),
        min_awake=draw(st.floats(0.0, 5000.0)),
        max_cycles_per_hour=draw(st.none() | st.integers(1, 4)),
        idle_price=draw(st.none() | st.floats(1e-5, 0.01)),
        wait_price=draw(st.floats(0.0, 0.01)),
    )


def pasts() -> st.SearchStrategy[Past]:
    counts = st.lists(st.integers(0, 50), max_size=BINS + 1).map(tuple)
    peaks = st.tuples(st.integers(1, 250), st.integers(10, 40)).map(lambda p: gaps(**{f"m{p[0]}": p[1]}))
    return st.builds(Past, gaps=counts | peaks, wakes=st.lists(st.floats(0.0, 1000.0), max_size=5).map(tuple))


@given(
    plan=plans(),
    past=pasts(),
    ready=st.floats(0.0, 1e6),
    used=st.floats(0.0, 1e5),
    later=st.floats(0.001, 1e4),
    ages=st.lists(st.floats(0.0, HOUR_S), max_size=6),
)
def test_sleep_is_never_too_early_and_never_earlier_for_later_use(
    *, plan: IdleSettings, past: Past, ready: float, used: float, later: float, ages: list[float]
) -> None:
    woken = tuple(ready - age for age in ages)
    idle = ready + used + 0.001
    at = sleep_at(plan, past, ready_since=ready, idle_since=idle, wakes_at=woken)
    assert at >= idle
    assert at >= ready + plan.min_awake
    assert sleep_at(plan, past, ready_since=ready, idle_since=idle + later, wakes_at=woken) >= at
    assert sleep_at(plan, past, ready_since=ready, idle_since=idle, wakes_at=()) <= at
    if plan.max_cycles_per_hour is not None:
        assert sum(wake > at - HOUR_S + 1e-6 for wake in woken) < plan.max_cycles_per_hour
    ahead = wake_at(plan, past, idle_since=idle, asleep_since=at)
    assert ahead is None or ahead > at


@given(past=pasts(), seconds=st.floats(0.0, 1e6))
def test_a_histogram_stays_bounded_and_grows_by_at_most_one(past: Past, seconds: float) -> None:
    after = with_gap(past.gaps, seconds)
    assert len(after) <= BINS + 1
    assert sum(after) <= sum(past.gaps) + 1
    result = pattern(Past(gaps=after))
    assert result is None or 0 <= result.head < result.tail <= BINS * MINUTE_S * 1.1
