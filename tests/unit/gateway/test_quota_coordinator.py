"""Limits hold across gateways, whatever the bus does to their messages, and nothing of them lies idle."""

from collections.abc import Callable
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.core.quota_coordinator import SILENT_SECONDS
from services.gateway.core.rate_limits import LimitExceeded, RateLimiter, Reservation, Unsettled
from shared.messages.gateway import QuotaReport
from shared.messages.keys import KeyRecord

START = 1795478297.0
PERIOD = 2.0
RETRIES = 5
RETRY_SECONDS = 0.02
REPORT_SECONDS = 0.01


def key(**limits: int) -> KeyRecord:
    return KeyRecord(id="k", name="n", created_at=0.0, **limits)  # type: ignore[arg-type]  # limits alone are given


class Gateway:
    """One gateway of a `Cluster`, with what it let through."""

    def __init__(self, name: str, started: float) -> None:
        self.limiter = RateLimiter(name, started, {})
        self.name = name
        self.changed = False
        self.reported_at = 0.0
        self.admitted: list[float] = []
        self.running: list[Reservation] = []
        self.limiter.on_change = self._on_change

    def _on_change(self) -> None:
        self.changed = True


class Cluster:
    """Gateways, and a bus on which each message takes `delay` seconds; `lost` says which never arrive."""

    def __init__(self, *names: str, delay: float = 0.001) -> None:
        self.now = START
        self.delay = delay
        self.lost: Callable[[str, str], bool] = lambda _sender, _receiver: False
        self.gateways: dict[str, Gateway] = {}
        self.gone: list[Gateway] = []
        self.sent = 0
        self._under_way: list[tuple[float, str, QuotaReport]] = []
        for name in names:
            self.join(name)

    def join(self, name: str, *, started: float | None = None) -> Gateway:
        """As `QuotaGossip.start` does it. `started`: what its clock says; None: the time."""
        gateway = self.gateways[name] = Gateway(name, self.now if started is None else started)
        for _ in range(4):
            self.report(gateway)
            self.run(0.025)
            if gateway.limiter.coordinator.is_settled:
                break
        gateway.limiter.coordinator.start_serving()
        gateway.changed = True
        self.run(0.05)
        return gateway

    def die(self, name: str) -> None:
        self.gone.append(self.gateways.pop(name))

    def report(self, gateway: Gateway, *, leaving: bool = False) -> None:
        gateway.changed, gateway.reported_at = False, self.now
        message = gateway.limiter.report(self.now, leaving=leaving)
        for name in self.gateways:
            if name != gateway.name and not self.lost(gateway.name, name):
                self.sent += 1
                self._under_way.append((self.now + self.delay, name, message))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        step = min(REPORT_SECONDS, max(self.delay, 0.001))
        while self.now < end:
            self.now += step
            due = [sent for sent in self._under_way if sent[0] <= self.now]
            self._under_way = [sent for sent in self._under_way if sent[0] > self.now]
            for _, name, message in due:
                if name in self.gateways and self.gateways[name].limiter.coordinator.receive(message, self.now):
                    self.gateways[name].changed = True
            for gateway in list(self.gateways.values()):
                since = self.now - gateway.reported_at
                stale = gateway.changed or gateway.limiter.stale_at <= self.now
                if since >= PERIOD or (stale and since >= REPORT_SECONDS):
                    self.report(gateway)

    def ask(self, name: str, record: KeyRecord, tokens: int = 1) -> Reservation | LimitExceeded:
        """As the front door does it."""
        gateway = self.gateways[name]
        for _ in range(RETRIES):
            decision = gateway.limiter.admit(record, tokens, self.now)
            if not isinstance(decision, Unsettled):
                break
            self.run(RETRY_SECONDS)
        else:
            decision = gateway.limiter.admit(record, tokens, self.now)
        if isinstance(decision, Unsettled):
            return gateway.limiter.give_up(decision)
        if isinstance(decision, Reservation):
            gateway.admitted.append(self.now)
            gateway.running.append(decision)
        return decision

    def within_a_minute(self) -> int:
        gateways = (*self.gateways.values(), *self.gone)
        return sum(self.now - at < 60 for gateway in gateways for at in gateway.admitted)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 20, 100])
@pytest.mark.parametrize("name", ["a", "b"])
def test_one_gateway_of_two_can_use_the_whole_limit_within_a_second(name: str, limit: int) -> None:
    cluster = Cluster("a", "b")
    record = key(requests_per_minute=limit)
    began = cluster.now
    uses = [cluster.ask(name, record) for _ in range(limit)]
    assert all(isinstance(use, Reservation) for use in uses)
    assert cluster.now - began < 1.0
    assert isinstance(cluster.ask(name, record), LimitExceeded)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7])
def test_all_of_a_limit_is_used_from_gateways_in_turn(limit: int) -> None:
    cluster = Cluster("a", "b", "c")
    record = key(requests_per_minute=limit)
    assert all(isinstance(cluster.ask("abc"[at % 3], record), Reservation) for at in range(limit))
    assert all(isinstance(cluster.ask(name, record), LimitExceeded) for name in "abc")
    cluster.run(61.5)
    assert isinstance(cluster.ask("c", record), Reservation)


def test_one_request_at_once_moves_from_gateway_to_gateway() -> None:
    cluster = Cluster("a", "b")
    record = key(concurrency=1)
    for name in "abbaba":
        use = cluster.ask(name, record)
        assert isinstance(use, Reservation)
        assert isinstance(cluster.ask("b" if name == "a" else "a", record), LimitExceeded)
        use.settle(0, cluster.now, None)


def test_a_request_within_its_gateway_s_part_does_not_wait() -> None:
    cluster = Cluster("a", "b")
    record = key(requests_per_minute=100, tokens_per_minute=1000)
    assert isinstance(cluster.gateways["b"].limiter.admit(record, 500, cluster.now), Reservation)
    assert isinstance(cluster.gateways["a"].limiter.admit(record, 500, cluster.now), Reservation)


def test_a_request_for_all_tokens_of_a_minute_passes_on_any_gateway() -> None:
    cluster = Cluster("a", "b", "c")
    use = cluster.ask("b", key(tokens_per_minute=1000), 10**6)
    assert isinstance(use, Reservation)
    assert isinstance(cluster.ask("a", key(tokens_per_minute=1000)), LimitExceeded)
    use.settle(400, cluster.now, None)
    cluster.run(0.1)
    assert isinstance(cluster.ask("a", key(tokens_per_minute=1000), 600), Reservation)


def test_idle_gateways_send_only_periodic_reports() -> None:
    cluster = Cluster("a", "b", "c")
    cluster.ask("b", key(requests_per_minute=10))
    cluster.run(3.0)
    before = cluster.sent
    cluster.run(20.0)
    assert cluster.sent - before <= 2 * 3 * 11


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_leaving_gateway_frees_its_in_flight_at_once_and_its_minute_later(first: str) -> None:
    cluster = Cluster("a", "b")
    other = "b" if first == "a" else "a"
    record = key(requests_per_minute=4, concurrency=4)
    assert all(isinstance(cluster.ask(first, record), Reservation) for _ in range(3))
    cluster.run(0.1)
    cluster.report(cluster.gateways[first], leaving=True)
    cluster.run(0.01)
    cluster.die(first)
    assert isinstance(cluster.ask(other, record), Reservation)
    refusal = cluster.ask(other, record)
    assert isinstance(refusal, LimitExceeded)
    assert refusal.which == "requests"
    cluster.run(61.5)
    assert all(isinstance(cluster.ask(other, record), Reservation) for _ in range(3))


@pytest.mark.parametrize("dead", ["a", "b"])
def test_the_full_limit_is_back_10_s_after_a_crash(dead: str) -> None:
    cluster = Cluster("a", "b")
    other = "b" if dead == "a" else "a"
    record = key(requests_per_minute=20, concurrency=2)
    assert all(isinstance(cluster.ask(dead, record), Reservation) for _ in range(2))
    cluster.run(0.1)
    cluster.die(dead)
    refusal = cluster.ask(other, record)
    assert isinstance(refusal, LimitExceeded)
    assert refusal.which == "concurrency"
    cluster.run(SILENT_SECONDS + PERIOD)
    assert all(isinstance(cluster.ask(other, record), Reservation) for _ in range(2))
    cluster.gateways[other].running[0].settle(0, cluster.now, None)
    for _ in range(30):
        use = cluster.ask(other, record)
        if isinstance(use, Reservation):
            use.settle(0, cluster.now, None)
    assert cluster.within_a_minute() == 20


@pytest.mark.parametrize("started", [0.0, START - 3600, START, START + 3600, 253_402_300_799.0])
@pytest.mark.parametrize("name", ["0", "z"])
def test_newcomer_with_any_clock_breaks_no_limit_and_delays_nobody(name: str, started: float) -> None:
    """It may say that it is the oldest, and then it leads; or that it started when another one did."""
    cluster = Cluster("a", "b")
    record = key(requests_per_minute=12, concurrency=12)
    assert all(isinstance(cluster.ask(at, record), Reservation) for at in "aab")
    cluster.join(name, started=started)
    assert all(isinstance(cluster.ask(at, record), Reservation) for at in (name, "a", "b") * 3)
    assert all(isinstance(cluster.ask(at, record), LimitExceeded) for at in ("a", "b", name))
    assert cluster.within_a_minute() == 12
    cluster.run(1.0)
    leaders = [one.name for one in cluster.gateways.values() if one.limiter.coordinator._elder is None]
    assert len(leaders) == 1


def test_a_restarted_gateway_serves_before_its_predecessor_is_out() -> None:
    """The eldest was killed: its follower lends of its own loan until the limit falls to it."""
    cluster = Cluster("a", "b")
    record = key(requests_per_minute=40)
    assert isinstance(cluster.ask("a", record), Reservation)
    cluster.run(0.1)
    cluster.die("a")
    cluster.join("a2")
    assert isinstance(cluster.ask("a2", record), Reservation)
    assert isinstance(cluster.ask("b", record), Reservation)
    cluster.run(SILENT_SECONDS + PERIOD)
    for at in range(60):
        cluster.ask(("a2", "b")[at % 2], record)
    assert cluster.within_a_minute() == 40


def test_joining_does_not_raise_the_limit() -> None:
    cluster = Cluster("a")
    record = key(requests_per_minute=20)
    assert all(isinstance(cluster.ask("a", record), Reservation) for _ in range(18))
    cluster.join("b")
    for at in range(10):
        cluster.ask("ba"[at % 2], record)
    assert cluster.within_a_minute() == 20


def test_each_side_of_a_partition_has_the_full_limit_until_it_heals() -> None:
    cluster = Cluster("a", "b")
    record = key(requests_per_minute=10)
    cluster.lost = lambda _sender, _receiver: True
    cluster.run(SILENT_SECONDS + PERIOD)
    for name in "ab":
        assert sum(isinstance(cluster.ask(name, record), Reservation) for _ in range(12)) == 10
    cluster.lost = lambda _sender, _receiver: False
    cluster.run(PERIOD + 0.1)
    assert all(isinstance(cluster.ask(name, record), LimitExceeded) for name in "ab")
    cluster.run(62.0)
    for at in range(20):
        cluster.ask("ab"[at % 2], record)
    assert cluster.within_a_minute() == 10


@pytest.mark.parametrize("deaf", ["a", "b"])
def test_a_gateway_that_receives_no_reports_blocks_no_other(deaf: str) -> None:
    cluster = Cluster("a", "b")
    cluster.lost = lambda _sender, receiver: receiver == deaf
    cluster.run(2 * SILENT_SECONDS)
    assert all(isinstance(cluster.ask(name, key(requests_per_minute=10)), Reservation) for name in "ab")


def test_a_gateway_that_missed_our_reports_gets_a_reply() -> None:
    cluster = Cluster("a", "b")
    message = cluster.gateways["a"].limiter.report(cluster.now)
    newcomer = RateLimiter("c", cluster.now, {})
    assert newcomer.coordinator.receive(
        msgspec.structs.replace(message, heard={"c": cluster.now - SILENT_SECONDS}), cluster.now
    )
    assert not newcomer.report(cluster.now).heard


def test_a_new_eldest_keeps_to_its_old_loan_while_another_may_still_use_its_own() -> None:
    cluster = Cluster("a", "b", "c")
    record = key(requests_per_minute=30)
    cluster.run(1.0)
    for name in "ca":  # so that the loan of c lapses later than that of b
        cluster.report(cluster.gateways[name])
        cluster.run(0.005)
    cluster.die("a")
    b, c = cluster.gateways["b"].limiter, cluster.gateways["c"].limiter
    while b.report(cluster.now).follows != "b":
        cluster.run(0.01)
    assert c.report(cluster.now).follows == "a"
    for limiter in (b, c):
        decisions = [limiter.admit(record, 1, cluster.now) for _ in range(11)]
        assert [isinstance(decision, Reservation) for decision in decisions] == [True] * 10 + [False]
    cluster.join("d")
    assert b.report(cluster.now).loans["d"].parts == 2 * 3
    cluster.run(PERIOD)
    assert [isinstance(cluster.ask("b", record), Reservation) for _ in range(11)] == [True] * 10 + [False]


@pytest.mark.parametrize("jump", [86400.0, -86400.0, 30.0, -30.0])
def test_a_clock_that_jumps_costs_one_exchange_of_messages(jump: float) -> None:
    cluster = Cluster("a", "b")
    for gateway in cluster.gateways.values():
        gateway.limiter.admit(key(requests_per_minute=10), 1, cluster.now)
    cluster.now += jump
    for gateway in cluster.gateways.values():
        gateway.reported_at = cluster.now - PERIOD
    cluster.run(PERIOD + 0.1)
    used = cluster.within_a_minute()
    for at in range(30):
        cluster.ask("ab"[at % 2], key(requests_per_minute=10))
    assert cluster.within_a_minute() - used in (8, 10)
    cluster.run(62.0)
    assert isinstance(cluster.ask("b", key(requests_per_minute=10)), Reservation)


def test_an_unused_key_is_no_longer_reported() -> None:
    cluster = Cluster("a", "b")
    assert isinstance(cluster.ask("b", key(requests_per_minute=1)), Reservation)
    cluster.gateways["b"].running[0].settle(5, cluster.now, None)
    cluster.run(0.1)
    assert cluster.gateways["a"].limiter.report(cluster.now).loans["b"].keys
    cluster.run(70.0)
    for gateway in cluster.gateways.values():
        message = gateway.limiter.report(cluster.now)
        assert not message.keys
        assert not any(lease.keys for lease in message.loans.values())


class AnyBus:
    """Gateways that stay, on a bus that loses, delays, doubles and reorders, drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        self.at_once, self.requests, self.tokens = (self.draw.choice(of) for of in ((1, 3, 7), (1, 3, 20), (100, 1000)))
        self.loss = self.draw.choice((0.0, 0.1, 0.4))
        self.delay = self.draw.choice((0.002, 0.05, 1.0))
        self.record = key(concurrency=self.at_once, requests_per_minute=self.requests, tokens_per_minute=self.tokens)
        cluster = Cluster(*"abcd"[: self.draw.choice((2, 3, 4))])
        self.now, self.all = cluster.now, list(cluster.gateways.values())
        self.busy = self.all[0]
        self.under_way: list[tuple[float, Gateway, QuotaReport]] = []
        self.received_at = {(one.name, other.name): self.now for one in self.all for other in self.all}
        self.admitted: list[float] = []
        self.running: list[tuple[Reservation, int]] = []
        self.ended: list[tuple[float, int]] = []

    def step(self) -> None:
        draw = self.draw
        self.now += draw.choice((0.0, 0.001, 0.01, 0.1, 0.5))
        self.busy = draw.choice(self.all) if draw.random() < 0.05 else self.busy
        self.deliver_due()
        for gateway in self.all:
            if self.now - gateway.reported_at >= PERIOD or (gateway.changed and draw.random() < 0.7):
                self.report(gateway)
        for _ in range(draw.choice((0, 1, 1, 5))):
            expected = draw.choice((1, self.tokens // 10, self.tokens // 3, self.tokens))
            target = self.busy if draw.random() < 0.7 else draw.choice(self.all)
            use = target.limiter.admit(self.record, expected, self.now)
            if isinstance(use, Reservation):
                self.admitted.append(self.now)
                self.running.append((use, expected))
            self.check()
        while self.running and draw.random() < 0.5:
            use, expected = self.running.pop(draw.randrange(len(self.running)))
            took = draw.randint(0, expected)
            use.settle(took, self.now, len(self.ended) + 1)
            self.ended.append((self.now, took))

    def deliver_due(self) -> None:
        self.draw.shuffle(self.under_way)
        due = [sent for sent in self.under_way if sent[0] <= self.now]
        self.under_way = [sent for sent in self.under_way if sent[0] > self.now]
        for _, receiver, message in due:
            self.received_at[message.gateway, receiver.name] = self.now
            receiver.changed |= receiver.limiter.coordinator.receive(message, self.now)

    def report(self, sender: Gateway) -> None:
        """Whoever has not been heard for 2 s is heard this time, so that few are taken for dead."""
        sender.changed, sender.reported_at = False, self.now
        message = sender.limiter.report(self.now)
        for receiver in self.all:
            late = self.now - self.received_at[sender.name, receiver.name] > 2
            if receiver is not sender and (late or self.draw.random() >= self.loss):
                for _ in range(2 if self.draw.random() < 0.1 else 1):
                    self.under_way.append((self.now + self.draw.random() * self.delay, receiver, message))

    def together(self) -> bool:
        return all(len(gateway.limiter.coordinator._peers) == len(self.all) - 1 for gateway in self.all)

    def check(self) -> None:
        assert sum(at > self.now - 60 for at in self.admitted) <= self.requests
        assert len(self.running) <= self.at_once
        took = sum(tokens for at, tokens in self.ended if at > self.now - 60)
        assert took + sum(tokens for _, tokens in self.running) <= self.tokens


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_the_limit_holds_whatever_the_bus_loses_or_reorders(seed: int) -> None:
    bus = AnyBus(seed)
    for _ in range(500):
        bus.step()
        if not bus.together():
            break  # what such a partition costs is told elsewhere
    assert bus.admitted
