"""Limits of a key's wakes at a gateway: by the waker's word, the key's own record and the configuration."""

from decimal import Decimal

import msgspec

from services.gateway.core.wake_limits import WakeLimits
from shared.config.values import Money
from shared.messages.keys import KeyRecord
from shared.messages.waker import KeyWakes

PLAIN = KeyRecord(id="k1", name="plain", created_at=0.0)
OWN = KeyRecord(id="k2", name="own", created_at=0.0, wakes_per_hour=1, wake_cost_per_day=Decimal("0.50"))


def limits(*used: KeyWakes) -> WakeLimits:
    return WakeLimits(3, Decimal("2.00"), {one.key_id: one for one in used})


def used(key: KeyRecord, wakes: int, cost: str = "0", *under_way: str) -> KeyWakes:
    return KeyWakes(key_id=key.id, wakes=wakes, cost=Decimal(cost), day="2026-11-28", under_way=under_way)


def test_a_key_without_wakes_may_cause_one() -> None:
    assert limits().reached(PLAIN, "m") is None


def test_the_configuration_holds_for_a_key_that_has_no_limits_of_its_own() -> None:
    assert limits(used(PLAIN, 2, "1.99")).reached(PLAIN, "m") is None
    assert limits(used(PLAIN, 3)).reached(PLAIN, "m") == "wakes"
    assert limits(used(PLAIN, 0, "2.00")).reached(PLAIN, "m") == "wake_cost"


def test_a_key_s_own_limits_hold_instead() -> None:
    assert limits(used(OWN, 0, "0.49")).reached(OWN, "m") is None
    assert limits(used(OWN, 1)).reached(OWN, "m") == "wakes"
    assert limits(used(OWN, 0, "0.50")).reached(OWN, "m") == "wake_cost"
    cause = limits().cause(OWN)
    assert (cause.key_id, cause.wakes_per_hour, cause.cost_per_day) == ("k2", 1, Decimal("0.50"))


def test_the_configured_limits_of_a_wake_can_be_sent() -> None:
    cause = WakeLimits(3, Money("2.00"), {}).cause(PLAIN)
    assert b'"cost_per_day":"2.00"' in msgspec.json.encode(cause)


def test_more_of_its_requests_may_wait_for_the_wake_that_it_caused() -> None:
    reported = limits(used(OWN, 1, "9", "m"))
    assert reported.reached(OWN, "m") is None
    assert reported.reached(OWN, "n") == "wakes"


def test_each_wake_limit_sets_should_retry() -> None:
    wakes, cost = limits().error(OWN, "wakes"), limits().error(OWN, "wake_cost")
    assert (wakes.status, wakes.code, wakes.headers) == (429, "rate_limit_exceeded", {"Retry-After": "60"})
    assert "1 wakes" in wakes.message
    assert (cost.status, cost.code, cost.headers) == (429, "insufficient_quota", {"x-should-retry": "false"})
    assert "0.50 USD" in cost.message
