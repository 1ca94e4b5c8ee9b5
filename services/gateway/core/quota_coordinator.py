"""Shares each key's limits among the gateways, so that together they never exceed them.

The oldest reachable gateway, the leader, owns each limit and leases parts of it; the others, its followers, use no more
than they were leased. A lease counts as used until the follower has acknowledged a lower one: at most two leases per
follower are open, the agreed and the offered one, and the higher counts. So for every limit

    own usage + the sum over followers of max(reported usage, agreed lease, offered lease) <= the limit

whenever the leader admits or leases, and a follower's usage never exceeds that maximum. Even if messages are lost,
late, repeated or reordered, the sum of all usage stays within the limit. A key without a lease of its own is leased in
equal parts.

A gateway is out `SILENT_SECONDS` after it last answered. The follower counts from when it sent the report that was
answered, the leader from when it received the answer, so a lease has lapsed before it is leased again. Then the next
oldest gateway owns the limits. Two gateways that cannot reach each other both own them: during such a partition each
may use the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.gateway.core.bus_absence import Place
from services.gateway.core.key_usage import CONCURRENCY, NONE, PER_MINUTE, SLOT_SECONDS, Amounts
from services.gateway.core.quota_lease import MAX_KEYS, NO_LEASE, Capacity, QuotaFollower, QuotaLeader, leased
from shared.messages.gateway import KeyQuota, QuotaLease, QuotaReport

SILENT_SECONDS = 10.0
"""Five times the period in which every gateway reports."""
HANDOVER_SECONDS = 3.0
"""How long a new leader keeps to its own old lease, since others may still use theirs."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Peer(QuotaFollower):
    """Another gateway. A peer that is out is remembered until the usage of its last minute has expired."""

    report: QuotaReport
    """The newest report."""
    received_at: float
    until: float
    """When the peer is out or, once it is out, forgotten."""
    lease: QuotaLease = NO_LEASE
    """What the peer leases to this gateway."""


@dataclass(eq=False, slots=True)
class QuotaCoordinator:
    """One gateway's view of the others. The lower `started` (Unix seconds), then the lower name, is the older
    gateway."""

    gateway: str
    started: float
    is_alone: bool = True
    """No other gateway is known or remembered: the limits are this gateway's alone."""
    revision: int = 0
    """Rises with each change of what `ceiling` returns."""
    _peers: dict[str, _Peer] = field(default_factory=dict)
    _past: dict[str, _Peer] = field(default_factory=dict)
    """Peers that are out."""
    _elder: _Peer | None = None
    """The leader, if it is another gateway."""
    _lease: QuotaLease | None = None
    """The lease that this gateway and its followers use; None: it owns the limits."""
    _old_lease: QuotaLease = NO_LEASE
    """The lease of the former leader."""
    _calm_at: float = 0.0
    _number: int = 0
    _is_serving: bool = False
    _checked_at: float = 0.0
    _due: float = float("inf")
    _counted: list[_Peer] = field(default_factory=list)
    """Peers whose usage reduces this gateway's capacity."""
    _leader: QuotaLeader = field(default_factory=QuotaLeader)

    @property
    def is_settled(self) -> bool:
        """Whether another gateway is known and so is what this one may use."""
        return bool(self._peers) if self._elder is None else self._elder.lease is not NO_LEASE

    @property
    def place(self) -> Place:
        """This gateway's place among those that it can reach."""
        younger = sum(_age(peer) > (self.started, self.gateway) for peer in self._peers.values())
        return Place(younger, 1 + len(self._peers))

    def start_serving(self) -> None:
        """Admit requests from now on; until then the reports say that this gateway serves nothing."""
        self._is_serving = True

    def used_elsewhere(self, key_id: str, now: float) -> Amounts:
        """Return the others' usage; the per-minute amounts include gateways that are out.

        Requests in flight are left out, since they may have ended; `ceiling` bounds those.
        """
        if self.is_alone:
            return NONE
        self.expire(now)
        requests, tokens, month = (
            sum(peer.used(key_id, at) for peer in self._peers.values()) + self._remembered(key_id, at)
            for at in (0, 1, 3)
        )
        return requests, tokens, 0, month

    def ceiling(self, key_id: str, at: int, limit: int) -> int:
        """Return how high this gateway's own usage may go, as of the last `used_elsewhere`."""
        rest = self._capacity(key_id, at, limit) - sum(peer.bound(key_id, at, limit) for peer in self._counted)
        return min(rest, self._leader.own_shares.get(key_id, rest)) if at == CONCURRENCY else rest

    def is_short_elsewhere(self, key_id: str, at: int) -> bool:
        """Return whether another gateway is short of this limit."""
        return any(peer.unmet(key_id, at) for peer in self._peers.values())

    def receive(self, report: QuotaReport, now: float) -> bool:
        """Process another gateway's report; return whether it brought news and should be answered."""
        self.expire(now)
        name = report.gateway
        peer, past = self._peers.get(name), self._past.get(name)
        last = peer or past
        if name == self.gateway or (last is not None and report.number <= last.report.number):
            return False
        if report.leaving:
            if peer is not None:
                peer.report, peer.keys, peer.received_at = report, report.keys, now
                self._drop(peer)
                self._elect(now)
            return peer is not None
        until = self._until(report, peer, now)
        if until <= now:
            if past is not None:
                past.report, past.keys, past.until = report, report.keys, now + SLOT_SECONDS
                self._elect(now)
            return True  # it does not receive our reports
        is_news = peer is None or report.keys != peer.keys or report.follows != peer.report.follows
        if peer is None:
            self._past.pop(name, None)
            self._calm_at = now + HANDOVER_SECONDS
            peer = self._peers[name] = _Peer(keys=report.keys, report=report, received_at=now, until=until)
        peer.report, peer.keys, peer.received_at, peer.until = report, report.keys, now, until
        if report.follows == self.gateway and report.version == peer.offered.version != peer.agreed.version:
            peer.agreed, is_news = peer.offered, True
        lease = report.loans.get(self.gateway, NO_LEASE)
        if lease.version != peer.lease.version:
            peer.lease, is_news = lease, True
        self._elect(now)
        return is_news

    def report(self, keys: Mapping[str, KeyQuota], now: float, *, leaving: bool) -> QuotaReport:
        """Return the next report. `keys`: the usage of each limited key that is in use here."""
        self.expire(now)
        self._number += 1
        elder = self._elder
        capacity = Capacity(
            own=keys,
            total=self._capacity,
            lease=self._lease,
            counted=self._counted,
            # A newcomer that does not serve yet will follow the leader.
            followers=[peer for peer in self._counted if peer.report.follows in ("", self.gateway)],
        )
        self._leader.offer(self._number, capacity)
        self.revision += 1
        return QuotaReport(
            gateway=self.gateway,
            started=self.started,
            number=self._number,
            sent_at=now,
            follows=elder.report.gateway if elder else self.gateway if self._is_serving else "",
            version=elder.lease.version if elder else 0,
            keys=dict(list(keys.items())[:MAX_KEYS]),
            heard={name: peer.report.sent_at for name, peer in self._peers.items()},
            loans={name: peer.offered for name, peer in self._peers.items() if peer.offered is not NO_LEASE},
            leaving=leaving,
        )

    def _until(self, report: QuotaReport, peer: _Peer | None, now: float) -> float:
        is_younger = (report.started, report.gateway) > (self.started, self.gateway)
        answered = now if is_younger else report.heard.get(self.gateway)
        if answered is not None:
            return min(now, answered) + SILENT_SECONDS
        if peer is not None:
            return peer.until
        return now if report.gateway in self._past else now + SILENT_SECONDS

    def expire(self, now: float) -> None:
        """Drop peers that are out by now."""
        if self._checked_at <= now < self._due:
            return
        if now < self._checked_at:  # the clock was set back
            self._calm_at = min(self._calm_at, now + HANDOVER_SECONDS)
            for peer in self._peers.values():
                peer.until, peer.received_at = min(peer.until, now + SILENT_SECONDS), min(peer.received_at, now)
            for peer in self._past.values():
                peer.until = min(peer.until, now + SLOT_SECONDS)
        for peer in [peer for peer in self._peers.values() if peer.until <= now]:
            self._drop(peer)
        self._past = {name: peer for name, peer in self._past.items() if now < peer.until}
        self._elect(now)

    def _drop(self, peer: _Peer) -> None:
        name = peer.report.gateway
        self._past[name] = self._peers.pop(name)
        peer.until = peer.received_at + SLOT_SECONDS
        if peer is self._elder:
            self._old_lease = peer.lease

    def _elect(self, now: float) -> None:
        elders = [p for p in self._peers.values() if _age(p) < (self.started, self.gateway)]
        elder = min(elders, key=_age, default=None)
        if elder is not None:
            self._old_lease = NO_LEASE
        elif self._elder is not None:
            self._calm_at = now + HANDOVER_SECONDS
        self._elder = elder
        self.is_alone = not self._peers and not any(peer.keys for peer in self._past.values())
        others = ("", self.gateway)
        has_strangers = any(peer.report.follows not in others for peer in self._peers.values())
        is_taking_over = elder is None and has_strangers and now < self._calm_at
        self._lease = elder.lease if elder else self._old_lease if is_taking_over else None
        self._counted = [p for p in self._peers.values() if self._lease is None or p.report.follows == self.gateway]
        self.revision += 1
        self._checked_at = now
        dues = [peer.until for peer in (*self._peers.values(), *self._past.values())]
        self._due = min([*dues, self._calm_at] if is_taking_over else dues, default=float("inf"))

    def _capacity(self, key_id: str, at: int, limit: int) -> int:
        """Return what this gateway and its followers may use together."""
        if self._lease is not None:
            return leased(self._lease, key_id, at, limit)
        return limit - self._remembered(key_id, at)

    def _remembered(self, key_id: str, at: int) -> int:
        """Return the per-minute usage of peers that are out.

        Their requests in flight died with them, and their outboxes will deliver the month's tokens.
        """
        return sum(peer.used(key_id, at) for peer in self._past.values()) if at < PER_MINUTE else 0


def _age(peer: _Peer) -> tuple[float, str]:
    return peer.report.started, peer.report.gateway
