"""What the policies cost: by hand, with the tier's own prices, bounds and schedules."""

from decimal import Decimal

import pytest

from shared.config.load import parse
from spotinference.plan.policies import PolicyResult, TierPlan, plan_tier
from spotinference.plan.replay import Traffic
from spotinference.plan.view import plan_json, print_plans

HOUR = 3600.0
TRAFFIC = Traffic(span=(0.0, 10 * HOUR), arrivals=(HOUR, 5 * HOUR), seconds=(100.0, 100.0), tokens=900)
TIER = """
[waker]
wait_price_per_minute = "0.60"
[[tier]]
name = "t"
provider = "process"
"""
PRICED = 'price_per_hour = "3.60"\nasleep_price_per_hour = "0.36"\n'


def planned(more: str = PRICED, traffic: Traffic = TRAFFIC) -> TierPlan:
    config = parse(TIER + more, "test")
    return plan_tier(config, config.tier[0], traffic, 200.0, "given")


def row(plan: TierPlan, policy: str, timeout: float | None = None) -> PolicyResult:
    (result,) = (r for r in plan.rows if r.policy == policy and timeout in (None, r.timeout))
    return result


def test_each_policy_once_and_the_configured_one_marked() -> None:
    names = [(r.policy, r.timeout, r.configured) for r in planned('idle_timeout = "10m"\n').rows]
    assert names == [
        ("always_on", None, False),
        ("fixed", 300.0, False),
        ("fixed", 600.0, True),
        ("fixed", 900.0, False),
        ("fixed", 1800.0, False),
        ("fixed", 3600.0, False),
        ("break_even", 600.0, False),  # without a price it is the timeout
        ("histogram", None, False),
        ("clairvoyant", None, False),
    ]
    assert [r.policy for r in planned('idle_policy = "histogram"\n').rows if r.configured] == ["histogram"]


def test_costs_by_hand() -> None:
    plan = planned()
    # 0.0009 USD per second saved by sleep; the wait is worth ten times that: 200 s * (1 + 0.01 / 0.0009).
    even = row(plan, "break_even").timeout
    assert even == pytest.approx(200.0 * (1 + 0.01 / 0.0009))
    # Awake 200 s of waking, 100 s of serving and 300 s of idling, twice; asleep for the other 34,800 s of ten hours.
    fixed = row(plan, "fixed", 300.0)
    assert (fixed.outcome.awake, fixed.outcome.wakes) == (1200.0, 2)
    assert fixed.cost == Decimal("1.2000") + Decimal("3.4800")
    assert fixed.waiting_cost == Decimal("4.0000")
    assert row(plan, "always_on").cost == Decimal("36.0000")
    assert row(plan, "clairvoyant").cost == Decimal("0.6000") + Decimal("3.5400")
    assert row(plan, "clairvoyant").waiting_cost == 0


def test_the_tiers_bounds_and_schedules_hold_for_every_policy_but_the_yardsticks() -> None:
    bounded = planned(PRICED + 'min_awake = "1h"\n')
    assert row(bounded, "fixed", 300.0).outcome.awake == 2 * (200.0 + HOUR)
    cycles = planned(PRICED + "max_cycles_per_hour = 1\n")
    assert row(cycles, "fixed", 300.0).outcome.awake == 2 * HOUR
    # 1970-01-01 was a Thursday.
    warm = planned(PRICED + 'keep_warm = ["thu 00:30-02:00", "fri 00:00-24:00"]\n')
    assert row(warm, "fixed", 300.0).outcome.awake == 1.5 * HOUR + 600.0
    assert row(warm, "fixed", 300.0).outcome.waits == (200.0,)
    for plan in (bounded, cycles, warm):
        assert row(plan, "clairvoyant").outcome.awake == 600.0
        assert row(plan, "always_on").outcome.awake == 10 * HOUR


def test_a_year_of_a_dear_tier_fits_into_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    year = Traffic(span=(0.0, 365 * 24 * HOUR), arrivals=range(0, 31_536_000, 2000), seconds=[9.0] * 15_768)
    plan = planned('price_per_hour = "11.25"\n', year)
    print_plans([plan], "ledger", year.span, {})
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fixed 5 min")]
    assert [line.split()[3:] for line in shown] == [
        ["25,080.98", "31,536.00", "2,229.4", "15,768", "15,768", "200", "200", "200"]
    ]


def test_without_a_price_nothing_has_a_cost() -> None:
    assert {r.cost for r in planned("").rows} == {None}


def test_the_fields_of_a_plan() -> None:
    plan = planned()
    reply = plan_json([plan], "ledger", (0.0, 10 * HOUR), {"zz": 3})
    (tier,) = reply.pop("tiers")
    assert reply == {
        "source": "ledger",
        "from": "1970-01-01T00:00:00.000Z",
        "to": "1970-01-01T10:00:00.000Z",
        "unknown_models": {"zz": 3},
    }
    policies = tier.pop("policies")
    assert tier == {
        "tier": "t",
        "requests": 2,
        "tokens": 900,
        "most_at_once": 1,
        "wake_seconds": 200.0,
        "wake_seconds_from": "given",
        "price_per_hour": "3.60",
        "asleep_price_per_hour": "0.36",
    }
    assert policies[1] == {
        "policy": "fixed",
        "timeout_seconds": 300.0,
        "configured": False,
        "cost": Decimal("4.6800"),
        "waiting_cost": Decimal("4.0000"),
        "hours_awake": 0.3333,
        "hours_asleep": 9.6667,
        "wakes": 2,
        "requests_waited": 2,
        "wait_p50": 200.0,
        "wait_p95": 200.0,
        "wait_p99": 200.0,
    }
