"""How the gateways share what is left of a key's limits, so that all of them together never go over.

The eldest gateway that is heard owns each limit and lends parts of it; the others follow it and use no more than what
they were lent. What a gateway has lent counts as used until the borrower has acknowledged a lower loan: at most
two loans per borrower are open, the agreed and the offered one, and the higher counts. So for every limit

    own use + the sum of max(heard use, agreed loan, offered loan) of the borrowers <= the limit

whenever the eldest admits or lends, and a borrower's use never is above that maximum: whatever is lost, late, twice
or out of order, the sum of all uses stays within the limit. A key of which nothing is said is lent in equal parts.

A gateway is out `SILENT_SECONDS` after it last answered: the borrower counts from when it sent what was answered, the
lender from when it heard it, so a loan has lapsed before it is lent again. Then the next eldest owns the limits. Two
gateways that cannot hear each other both own them: for the time of such a partition each may use the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.gateway.core.key_usage import SLOT_SECONDS
from services.gateway.core.quota_lease import MAX_KEYS, NO_LOAN, Capacity, QuotaFollower, QuotaLeader, lent
from shared.messages.gateway import KeyTold, LimitsTold, Loan

SILENT_SECONDS = 10.0
"""Five times the period in which every gateway speaks."""
HANDOVER_SECONDS = 3.0
"""How long a new eldest keeps to its own old loan for the sake of those who may still go by theirs."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Peer(QuotaFollower):
    """Another gateway, as last heard."""

    told: LimitsTold
    heard_at: float
    until: float
    """When it is out."""
    borrowed: Loan = NO_LOAN
    """What it lends us."""


@dataclass(eq=False)
class QuotaCoordinator:
    """One gateway's view of the others. `started` (Unix seconds) and then the name tell who is elder."""

    gateway: str
    started: float
    is_alone: bool = True
    """Nobody else is heard or remembered: the limits are this gateway's."""
    _peers: dict[str, _Peer] = field(default_factory=dict)
    _past: dict[str, _Peer] = field(default_factory=dict)
    """Who is out, until what they used in their last minute is older than that."""
    _elder: str | None = None
    _old_loan: Loan = NO_LOAN
    _calm_at: float = 0.0
    _number: int = 0
    _serving: bool = False
    _looked_at: float = 0.0
    _due: float = float("inf")
    _handing_over: bool = False
    """This gateway is the eldest, and somebody may still use what another has lent it."""
    _counted: list[_Peer] = field(default_factory=list)
    """Whose use comes out of this gateway's capacity."""
    _lender: QuotaLeader = field(default_factory=QuotaLeader)

    @property
    def is_settled(self) -> bool:
        """Somebody is heard, and what may be used is known."""
        if self._elder is None:
            return bool(self._peers)
        return self._peers[self._elder].borrowed is not NO_LOAN

    def start_serving(self) -> None:
        """From now on this gateway admits; before, it has said that it does not."""
        self._serving = True

    def used_elsewhere(self, key_id: str, now: float) -> tuple[int, ...]:
        """What the others use, for each of `Amounts`; of a minute those included that are out."""
        self._look(now)
        requests = tokens = concurrency = month = 0
        for peer in self._peers.values():
            if (told := peer.keys.get(key_id)) is not None:
                used = told.used
                requests, tokens = requests + used[0], tokens + used[1]
                concurrency, month = concurrency + used[2], month + used[3]
        if self._past:
            requests, tokens = requests + self._remembered(key_id, 0), tokens + self._remembered(key_id, 1)
        return requests, tokens, concurrency, month

    def ceiling(self, key_id: str, at: int, limit: int) -> int:
        """How high this gateway's own use may go, by what was known when `heard` was asked last."""
        ceiling = self._capacity(key_id, at, limit)
        for peer in self._counted:
            ceiling -= peer.bound(key_id, at, limit)
        return ceiling

    def receive(self, message: LimitsTold, now: float) -> bool:
        """Whether it should be answered: it brought something new."""
        self._look(now)
        name = message.gateway
        peer, past = self._peers.get(name), self._past.get(name)
        known = peer.told.number if peer else past.told.number if past else 0
        if name == self.gateway or message.number <= known:
            return False
        if message.leaving:
            if peer is not None:
                peer.told, peer.keys, peer.heard_at = message, message.keys, now
                self._drop(name, peer)
                self._elect(now)
            return peer is not None
        until = self._until(message, peer, now)
        if until <= now:
            if past is not None:
                past.told, past.keys, past.until = message, message.keys, now + SLOT_SECONDS
                self._elect(now)
            return True  # it does not hear us: let it
        news = peer is None or message.keys != peer.told.keys or message.follows != peer.told.follows
        if peer is None:
            self._past.pop(name, None)
            self._calm_at = now + HANDOVER_SECONDS
            peer = self._peers[name] = _Peer(keys=message.keys, told=message, heard_at=now, until=until)
        peer.told, peer.keys, peer.heard_at, peer.until = message, message.keys, now, until
        if message.follows == self.gateway and message.version == peer.offered.version != peer.agreed.version:
            peer.agreed, news = peer.offered, True
        loan = message.loans.get(self.gateway, NO_LOAN)
        if loan.version != peer.borrowed.version:
            peer.borrowed, news = loan, True
        self._elect(now)
        return news

    def report(self, keys: Mapping[str, KeyTold], now: float, *, leaving: bool) -> LimitsTold:
        """The next message. `keys`: what this gateway uses of each limited key that it uses at all."""
        self._look(now)
        self._number += 1
        self._lender.offer(self._number, self._estate(keys))
        elder = self._elder
        return LimitsTold(
            gateway=self.gateway,
            started=self.started,
            number=self._number,
            sent_at=now,
            follows=elder or (self.gateway if self._serving else ""),
            version=self._peers[elder].borrowed.version if elder else 0,
            keys=dict(list(keys.items())[:MAX_KEYS]),
            heard={name: peer.told.sent_at for name, peer in self._peers.items()},
            loans={name: peer.offered for name, peer in self._peers.items() if peer.offered is not NO_LOAN},
            leaving=leaving,
        )

    def _until(self, message: LimitsTold, peer: _Peer | None, now: float) -> float:
        if (message.started, message.gateway) > (self.started, self.gateway):
            return now + SILENT_SECONDS
        answered = message.heard.get(self.gateway)
        if answered is not None:
            return min(now, answered) + SILENT_SECONDS
        if peer is not None:
            return peer.until
        return now if message.gateway in self._past else now + SILENT_SECONDS

    def _look(self, now: float) -> None:
        """Let go who is out by now."""
        if self._looked_at <= now < self._due:
            return
        if now < self._looked_at:  # the clock was set back
            self._calm_at = min(self._calm_at, now + HANDOVER_SECONDS)
            for peer in self._peers.values():
                peer.until, peer.heard_at = min(peer.until, now + SILENT_SECONDS), min(peer.heard_at, now)
            for peer in self._past.values():
                peer.until = min(peer.until, now + SLOT_SECONDS)
        for name, peer in list(self._peers.items()):
            if peer.until <= now:
                self._drop(name, peer)
        self._past = {name: peer for name, peer in self._past.items() if now < peer.until}
        self._elect(now)

    def _drop(self, name: str, peer: _Peer) -> None:
        del self._peers[name]
        peer.until = peer.heard_at + SLOT_SECONDS
        self._past[name] = peer
        if name == self._elder:
            self._old_loan = peer.borrowed

    def _elect(self, now: float) -> None:
        ages = [(peer.told.started, name) for name, peer in self._peers.items()]
        eldest = min([*ages, (self.started, self.gateway)])[1]
        elder = None if eldest == self.gateway else eldest
        if elder is not None:
            self._old_loan = NO_LOAN
        elif self._elder is not None:
            self._calm_at = now + HANDOVER_SECONDS
        self._elder = elder
        self.is_alone = not self._peers and not any(peer.keys for peer in self._past.values())
        others = ("", self.gateway)
        strangers = any(peer.told.follows not in others for peer in self._peers.values())
        self._handing_over = elder is None and strangers and now < self._calm_at
        whole = elder is None and not self._handing_over
        self._counted = [p for p in self._peers.values() if whole or p.told.follows == self.gateway]
        self._looked_at = now
        dues = [peer.until for peer in (*self._peers.values(), *self._past.values())]
        self._due = min([*dues, self._calm_at] if self._handing_over else dues, default=float("inf"))

    def _capacity(self, key_id: str, at: int, limit: int) -> int:
        """What this gateway and those that it lends to may use together."""
        if self._elder is not None:
            return lent(self._peers[self._elder].borrowed, key_id, at, limit)
        if self._handing_over:
            return lent(self._old_loan, key_id, at, limit)
        return limit - self._remembered(key_id, at)

    def _remembered(self, key_id: str, at: int) -> int:
        """Of a minute; what was in flight died with its gateway, and its outbox brings the month's tokens later."""
        return sum(peer.used(key_id, at) for peer in self._past.values()) if at < 2 else 0

    def _estate(self, mine: Mapping[str, KeyTold]) -> Capacity:
        elder = self._peers[self._elder].borrowed if self._elder else None
        return Capacity(
            mine=mine,
            capacity=self._capacity,
            borrowed=self._old_loan if elder is None and self._handing_over else elder,
            counted=self._counted,
            # A newcomer that does not serve yet will follow the eldest.
            borrowers=[peer for peer in self._counted if peer.told.follows in ("", self.gateway)],
        )
