"""The leases that one gateway grants to others on the keys' limits.

A changed lease is offered until its follower acknowledges it; until then the higher of the two counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from services.gateway.core.key_usage import CONCURRENCY, NONE, KeyLimits
from shared.messages.gateway import KeyQuota, QuotaLease

NO_LEASE = QuotaLease(version=0, parts=0, keys={})
MACHINE = "machine/"
"""Before a machine's name among the keys; no key's id has a slash."""
MAX_KEYS = 2000
"""Keys listed in one message, about 100 bytes each; any further key gets its equal part."""
KEYS_PER_TURN = 32
"""Keys shared out per turn: about 25 µs each, a turn at most every 10 ms."""
_UNKNOWN: KeyLimits = (0, 0, 0, 0)
"""Limits of a key that nobody has used since this gateway became the leader: it leases none of it."""


def leased(lease: QuotaLease, key_id: str, at: int, limit: int) -> int:
    """Return how high the lease lets the follower's usage go."""
    if (amounts := lease.keys.get(key_id)) is not None:
        return amounts[at]
    return limit // lease.parts if lease.parts else 0


@dataclass(eq=False, slots=True)
class QuotaFollower:
    """Another gateway and its leases."""

    keys: Mapping[str, KeyQuota]
    """Its usage, as last reported."""
    agreed: QuotaLease = NO_LEASE
    """The lease that it has acknowledged."""
    offered: QuotaLease = NO_LEASE

    def used(self, key_id: str, at: int) -> int:
        return self.keys[key_id].used[at] if key_id in self.keys else 0

    def unmet(self, key_id: str, at: int) -> int:
        return self.keys[key_id].wanted[at] if key_id in self.keys else 0

    def bound(self, key_id: str, at: int, limit: int) -> int:
        """Return how high its usage may be by now."""
        loans = (leased(lease, key_id, at, limit) for lease in (self.agreed, self.offered))
        return max(*loans, self.used(key_id, at))


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What can be leased at one moment."""

    own: Mapping[str, KeyQuota]
    """This gateway's own usage."""
    total: Callable[[str, int, int], int]
    """Given a key, the limit's index and the limit: what this gateway and its followers may use together."""
    lease: QuotaLease | None
    """The leader's lease that this comes from; None: it is the whole limit."""
    counted: Sequence[QuotaFollower]
    """Gateways whose usage comes out of it."""
    followers: Sequence[QuotaFollower]
    """The `counted` gateways that use this gateway's leases."""


@dataclass(eq=False, slots=True)
class QuotaLeader:
    """Offers leases to followers."""

    own_shares: dict[str, int] = field(default_factory=dict)
    """How many requests this gateway should have in flight on each machine that has too few places for all gateways."""
    _limits: dict[str, KeyLimits] = field(default_factory=dict)
    """Limits of the keys that are in use or in a lease, as last reported by the gateways that use them."""
    _turn: int = 0

    def offer(self, version: int, capacity: Capacity) -> None:
        """Offer a new lease to each follower that has acknowledged its last one, if it differs."""
        free = [follower for follower in capacity.followers if follower.agreed is follower.offered]
        if not capacity.followers:
            self.own_shares.clear()
        if not free:
            return
        parts = _parts(free, capacity)
        is_new = parts != [follower.offered.parts for follower in free]
        loans = [{} if is_new else dict(follower.offered.keys) for follower in free]
        for key_id, limits in self._next(capacity, everything=is_new).items():
            fair = _fair_shares(key_id, limits[CONCURRENCY], capacity, version)
            if fair:
                self.own_shares[key_id] = fair[-1]
            else:
                self.own_shares.pop(key_id, None)
            columns = [
                _lend(key_id, at, limit, free, capacity, fair=fair if at == CONCURRENCY else [])
                for at, limit in enumerate(limits)
            ]
            for keys, part, amounts in zip(loans, parts, zip(*columns, strict=True), strict=True):
                keys[key_id] = amounts
                if limits is not _UNKNOWN and amounts == tuple((limit or 0) // part if part else 0 for limit in limits):
                    del keys[key_id]  # an equal part need not be listed
        for follower, part, keys in zip(free, parts, loans, strict=True):
            if (part, keys) != (follower.offered.parts, follower.offered.keys):
                follower.offered = QuotaLease(version=version, parts=part, keys=keys)

    def _next(self, capacity: Capacity, *, everything: bool) -> dict[str, KeyLimits]:
        """Return the keys whose leases are recomputed now, with their limits: those that a gateway is short of, and
        some more.

        The others keep their leases, which stay valid: so a message costs the same with many keys.
        """
        users = [capacity.own, *(follower.keys for follower in capacity.followers)]
        keys = chosen = _keys(capacity, users)
        if not everything and len(keys) > KEYS_PER_TURN:
            self._turn = self._turn % len(keys)
            turn = keys[self._turn : self._turn + KEYS_PER_TURN]
            short = {key_id for used in users for key_id, key in used.items() if key.wanted != NONE}
            chosen = [*turn, *short.intersection(keys).difference(turn)]
            self._turn += KEYS_PER_TURN
        self._limits = {key_id: self._limits.get(key_id, _UNKNOWN) for key_id in keys}
        self.own_shares = {key_id: share for key_id, share in self.own_shares.items() if key_id in self._limits}
        for key_id in chosen:
            if limits := [used[key_id].limits for used in users if key_id in used]:
                self._limits[key_id] = _highest(limits)
        return {key_id: self._limits[key_id] for key_id in chosen}


def _keys(capacity: Capacity, users: Sequence[Mapping[str, KeyQuota]]) -> list[str]:
    """Return all keys that are in use or in a lease; the latter come first, since they must not be left out."""
    loans = [lease for follower in capacity.followers for lease in (follower.agreed, follower.offered)]
    named = dict.fromkeys(key_id for lease in (*loans, capacity.lease or NO_LEASE) for key_id in lease.keys)
    keys = named | dict.fromkeys(key_id for used in users for key_id in used)
    return list(keys)[: max(len(named), MAX_KEYS)]


def _highest(limits: Sequence[KeyLimits]) -> KeyLimits:
    """Return the highest of each limit: a changed record reaches the gateways one by one, and each checks its own,
    too."""
    requests, tokens, concurrency, month = (
        max((limit for limit in column if limit is not None), default=None) for column in zip(*limits, strict=True)
    )
    return requests, tokens, concurrency, month


def _lend(
    key_id: str, at: int, limit: int | None, free: Sequence[QuotaFollower], capacity: Capacity, *, fair: Sequence[int]
) -> list[int]:
    """Return, for one limit of one key, what each of `free` may use from now on.

    `fair` has what each of `capacity.counted` should use if they want more than there is; else it is empty.
    """
    if limit is None:
        return [0] * len(free)
    own = QuotaFollower(capacity.own)
    left = capacity.total(key_id, at, limit) - own.used(key_id, at)
    spare = left - sum(follower.bound(key_id, at, limit) for follower in capacity.counted)
    rest = left - sum(follower.used(key_id, at) for follower in capacity.counted)
    shares = apportion(max(0, rest), [gateway.unmet(key_id, at) for gateway in (*capacity.counted, own)])
    loans = []
    for follower in free:
        bound = follower.bound(key_id, at, limit)
        index = capacity.counted.index(follower)
        aim = fair[index] if fair else follower.used(key_id, at) + shares[index]
        loans.append(min(aim, bound + max(0, spare)))
        spare -= max(0, loans[-1] - bound)
    return loans


def _fair_shares(key_id: str, limit: int | None, capacity: Capacity, turn: int) -> list[int]:
    """Return how many requests each of `capacity.counted`, then this gateway, should have in flight on a machine.

    Empty if there are enough places for all. Otherwise who has more than its share does not fill a place that becomes
    free: a gateway that always has requests waiting would keep all places, and the others' requests would wait forever.
    A key needs none of this, since requests over its limit are rejected.
    """
    if limit is None or not key_id.startswith(MACHINE):
        return []
    gateways = [*capacity.counted, QuotaFollower(capacity.own)]
    used = [gateway.used(key_id, CONCURRENCY) for gateway in gateways]
    wants = [gateway.unmet(key_id, CONCURRENCY) for gateway in gateways]
    total = capacity.total(key_id, CONCURRENCY, limit)
    return share_fairly(total, used, wants, turn) if any(wants) and sum(used) + sum(wants) > total else []


def share_fairly(total: int, used: Sequence[int], wants: Sequence[int], turn: int) -> list[int]:
    """Return shares of `total` that differ only where somebody needs less than an equal share.

    The remainder of a division stays where it is used. If there are fewer places than gateways, those that have none
    come first, in an order that `turn` shuffles.
    """
    needs = [have + want for have, want in zip(used, wants, strict=True)]
    are_few = total < sum(need > 0 for need in needs)
    order = sorted(
        range(len(needs)),
        key=lambda at: (needs[at] > 0, -used[at], hash((turn, at))) if are_few else (needs[at], used[at], at),
    )
    shares, rest = [0] * len(needs), max(0, total)
    for left, at in zip(range(len(needs), 0, -1), order, strict=True):
        shares[at] = min(needs[at], rest // left)
        rest -= shares[at]
    return shares


def apportion(rest: int, wants: Sequence[int]) -> list[int]:
    """Return one share for each of `wants`; their sum is at most `rest`.

    If nobody is short, the shares are equal. Otherwise those who are short get what they want, the smallest first, as
    far as it goes, and seven eighths of what remains; the others share one eighth equally, so that a request there need
    not wait. The remainder of a division stays with the leader.
    """
    short = sorted((at for at, want in enumerate(wants) if want > 0), key=wants.__getitem__)
    if not short:
        return [rest // len(wants)] * len(wants)
    shares = [0] * len(wants)
    for at in short:
        if wants[at] <= rest:
            shares[at] = wants[at]
            rest -= wants[at]
    calm = len(wants) - len(short)
    kept = rest // 8 if calm else 0
    return [
        share + ((rest - kept) // len(short) if want > 0 else kept // calm)
        for share, want in zip(shares, wants, strict=True)
    ]


def _parts(free: Sequence[QuotaFollower], capacity: Capacity) -> list[int]:
    """Return, for each of `free`, into how many parts a key that is not listed is divided; 0: it gets nothing yet."""
    whole = 1 if capacity.lease is None else capacity.lease.parts
    equal = whole * (1 + len(capacity.followers))
    open_parts = {id(f): [n for n in (f.agreed.parts, f.offered.parts) if n] for f in capacity.followers}
    parts = []
    for follower in free:
        own = open_parts.pop(id(follower))
        others = sum(Fraction(1, min(each)) for each in open_parts.values() if each)
        fits = equal > 0 and others + Fraction(1, equal) <= Fraction(1, whole)
        parts.append(equal if fits else follower.agreed.parts)  # otherwise others still hold more than their part
        open_parts[id(follower)] = [*own, equal] if fits else own
    return parts
