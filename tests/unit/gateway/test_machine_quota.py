"""Places on machines, shared by gateways that exchange reports."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.machine_quota import MachineQuota, quota_key, quota_of
from services.gateway.core.rate_limits import RateLimiter

LIMIT = 5


class Gateway:
    def __init__(self, name: str, started: float) -> None:
        self.limiter = RateLimiter(name, started, {})
        self.quota = MachineQuota(self.limiter.coordinator, self.limiter.notify_peers)
        self.limiter.shared_usage = lambda _now: {quota_key("m"): quota_of(self.in_flight, LIMIT, self.unmet)}
        self.in_flight = self.unmet = 0
        self.limiter.coordinator.start_serving()

    def take(self, now: float) -> None:
        self.unmet = 0
        if self.in_flight < min(LIMIT, self.quota.room("m", LIMIT, now)):
            self.in_flight += 1
        else:
            self.unmet = LIMIT - self.in_flight

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


def test_a_gateway_alone_has_all_places() -> None:
    assert Gateway("a", 0.0).quota.room("m", LIMIT, 1.0) == LIMIT
