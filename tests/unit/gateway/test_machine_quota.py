"""Places on machines, shared by gateways that exchange reports."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.machine_quota import MachineQuota, quota_key, quota_of
from services.gateway.core.rate_limits import RateLimiter

LIMIT = 5


class Gateway:
    def __init__(self, name: str, started: float, limit: int = LIMIT) -> None:
        self.limit = limit
        self.limiter = RateLimiter(name, started, {})
        self.quota = MachineQuota(self.limiter.coordinator, self.limiter.notify_peers)
        self.limiter.shared_usage = lambda _now: {quota_key("m"): quota_of(self.in_flight, limit, self.unmet)}
        self.in_flight = self.unmet = 0
        self.limiter.coordinator.start_serving()

    def take(self, now: float) -> None:
        self.unmet = 0
        if self.in_flight < min(self.limit, self.quota.room("m", self.limit, now)):
            self.in_flight += 1
        else:
            self.unmet = self.limit - self.in_flight

    def leave(self) -> None:
        if self.in_flight:
            self.in_flight -= 1
            self.quota.on_release("m")


def exchange(gateways: list[Gateway], now: float) -> None:
    for sender in gateways:
        report = sender.limiter.report(now)
        for receiver in gateways:
            receiver.limiter.coordinator.receive(report, now)


STEPS = st.lists(st.tuples(st.sampled_from(["take", "leave", "exchange"]), st.integers(0, 2)), max_size=60)


@given(STEPS)
def test_gateways_together_never_use_more_than_a_machine_has(steps: list[tuple[str, int]]) -> None:
    gateways = [Gateway(name, started) for started, name in enumerate("abc")]
    now = 100.0
    for _ in range(4):
        exchange(gateways, now)
    for step, number in steps:
        now += 0.01
        if step == "take":
            gateways[number].take(now)
        elif step == "leave":
            gateways[number].leave()
        else:
            exchange(gateways, now)
        assert sum(gateway.in_flight for gateway in gateways) <= LIMIT


def test_any_gateway_gets_what_the_others_leave() -> None:
    gateways = [Gateway(name, started) for started, name in enumerate("abc")]
    now = 100.0
    for gateway in gateways:
        for _ in range(40):
            now += 0.01
            exchange(gateways, now)
            gateway.take(now)
        assert gateway.in_flight == LIMIT
        for _ in range(LIMIT):
            gateway.leave()


@pytest.mark.parametrize(("limit", "names"), [(20, "ab"), (20, "abc"), (5, "abc"), (2, "abcd"), (1, "abc")])
def test_a_gateway_that_never_runs_out_of_requests_leaves_the_others_their_share(limit: int, names: str) -> None:
    gateways = [Gateway(name, started, limit) for started, name in enumerate(names)]
    now, taken = 100.0, Counter[str]()
    for _ in range(limit):
        gateways[0].take(now)
    for step in range(100 * len(names)):
        now += 0.01
        for gateway in gateways:
            gateway.unmet = limit - gateway.in_flight
        exchange(gateways, now)
        for gateway, name in zip(gateways, names, strict=True):
            if gateway.in_flight and step % 2:
                gateway.leave()
            before = -1
            while before != gateway.in_flight:  # as long as it gets places
                before = gateway.in_flight
                gateway.take(now)
                taken[name] += gateway.in_flight - before
    assert sum(gateway.in_flight for gateway in gateways) <= limit
    assert min(taken[name] for name in names) > 10, taken
    if limit >= len(names):
        assert {gateway.in_flight - limit // len(names) for gateway in gateways} <= {-1, 0, 1}


def test_a_gateway_alone_has_all_places() -> None:
    assert Gateway("a", 0.0).quota.room("m", LIMIT, 1.0) == LIMIT
