"""What one gateway lends to others of the keys' limits: what is open, and how much more may be.

A loan that is changed is offered until its borrower has acknowledged it; meanwhile the higher of the two counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from services.gateway.core.key_usage import Limits4
from services.gateway.core.quota_apportion import split
from shared.messages.gateway import KeyTold, Loan

NO_LOAN = Loan(version=0, parts=0, keys={})
MAX_KEYS = 2000
"""Keys named in one message, some 100 bytes each; one more has its equal part and no other."""
KEYS_PER_TURN = 32
"""Some 25 microseconds each, every 10 ms at most."""
_UNKNOWN: Limits4 = (0, 0, 0, 0)
"""Of a key that nobody has used since this gateway began to lend: it lends none of it."""


def lent(loan: Loan, key_id: str, at: int, limit: int) -> int:
    """How high the borrower's use may go."""
    amounts = loan.keys.get(key_id)
    if amounts is not None:
        return amounts[at]
    return limit // loan.parts if loan.parts else 0


@dataclass(eq=False, slots=True)
class QuotaFollower:
    """Another gateway, as far as loans go."""

    keys: Mapping[str, KeyTold]
    """What it uses, as last heard."""
    agreed: Loan = NO_LOAN
    """What it has acknowledged."""
    offered: Loan = NO_LOAN

    def used(self, key_id: str, at: int) -> int:
        told = self.keys.get(key_id)
        return told.used[at] if told is not None else 0

    def wanted(self, key_id: str, at: int) -> int:
        told = self.keys.get(key_id)
        return told.wanted[at] if told is not None else 0

    def bound(self, key_id: str, at: int, limit: int) -> int:
        """How high its use may be by now."""
        bound = lent(self.agreed, key_id, at, limit)
        if self.offered is not self.agreed:
            bound = max(bound, lent(self.offered, key_id, at, limit))
        return max(bound, self.used(key_id, at))


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What there is to lend of, at one moment."""

    mine: Mapping[str, KeyTold]
    """This gateway's own use."""
    capacity: Callable[[str, int, int], int]
    """Of a key, which limit, and that limit: what this gateway and its borrowers may use together."""
    borrowed: Loan | None
    """Where that comes from: an elder gateway's loan, None: it is the whole."""
    counted: Sequence[QuotaFollower]
    """Whose use comes out of it."""
    borrowers: Sequence[QuotaFollower]
    """Those of them that go by our loans."""


@dataclass(eq=False)
class QuotaLeader:
    """Makes the offers."""

    _limits: dict[str, Limits4] = field(default_factory=dict)
    """Of the keys that are used or named in a loan: what their tellers last said."""
    _turn: int = 0

    def offer(self, version: int, estate: Capacity) -> None:
        """A new loan to each borrower that has acknowledged the last one, where it differs."""
        free = [borrower for borrower in estate.borrowers if borrower.agreed is borrower.offered]
        if not free:
            return
        parts = _parts(free, estate)
        moved = any(part != borrower.offered.parts for borrower, part in zip(free, parts, strict=True))
        keys = [{} if moved else dict(borrower.offered.keys) for borrower in free]
        for key_id, limits in self._next(estate, everything=moved).items():
            columns = [_lend(key_id, at, limit, free, estate) for at, limit in enumerate(limits)]
            for named, part, amounts in zip(keys, parts, zip(*columns, strict=True), strict=True):
                equal = tuple((limit or 0) // part if part else 0 for limit in limits)
                if amounts != equal or limits is _UNKNOWN:
                    named[key_id] = amounts
                else:
                    named.pop(key_id, None)
        for borrower, part, named in zip(free, parts, keys, strict=True):
            if (part, named) != (borrower.offered.parts, borrower.offered.keys):
                borrower.offered = Loan(version=version, parts=part, keys=named)

    def _next(self, estate: Capacity, *, everything: bool) -> dict[str, Limits4]:
        """The keys whose loans are looked at now, with their limits: those that somebody is short of, and some more.

        The others keep what they have, which is safe for any time: so a message costs the same with many keys.
        """
        tellers = [estate.mine, *(borrower.keys for borrower in estate.borrowers)]
        keys = self._keys(estate, tellers)
        chosen = keys
        if not everything and len(keys) > KEYS_PER_TURN:
            self._turn = self._turn % len(keys)
            short = {key_id for told in tellers for key_id, key in told.items() if key.wanted != (0, 0, 0, 0)}
            turn = keys[self._turn : self._turn + KEYS_PER_TURN]
            chosen = [*turn, *(short.intersection(keys).difference(turn))]
            self._turn += KEYS_PER_TURN
        self._limits = {key_id: self._limits.get(key_id, _UNKNOWN) for key_id in keys}
        for key_id in chosen:
            told = [key.limits for keys_told in tellers if (key := keys_told.get(key_id)) is not None]
            if told:
                self._limits[key_id] = _highest(told)
        return {key_id: self._limits[key_id] for key_id in chosen}

    def _keys(self, estate: Capacity, tellers: Sequence[Mapping[str, KeyTold]]) -> list[str]:
        """All that are used or named in a loan; the latter first, for they must not be left out."""
        loans = [loan for borrower in estate.borrowers for loan in (borrower.agreed, borrower.offered)]
        if estate.borrowed is not None:
            loans.append(estate.borrowed)
        keys = dict.fromkeys(key_id for loan in loans for key_id in loan.keys)
        named = len(keys)
        for told in tellers:
            keys.update(dict.fromkeys(told))
        return list(keys)[: max(named, MAX_KEYS)]


def _highest(told: Sequence[Limits4]) -> Limits4:
    """A record that has just changed is not yet the same everywhere; each gateway checks its own besides."""
    requests, tokens, concurrency, month = (
        max((limit for limit in column if limit is not None), default=None) for column in zip(*told, strict=True)
    )
    return requests, tokens, concurrency, month


def _lend(key_id: str, at: int, limit: int | None, free: Sequence[QuotaFollower], estate: Capacity) -> list[int]:
    """One limit of one key: what each of `free` may use from now on."""
    if limit is None:
        return [0] * len(free)
    mine = estate.mine.get(key_id)
    left = estate.capacity(key_id, at, limit) - (mine.used[at] if mine else 0)
    spare = left - sum(borrower.bound(key_id, at, limit) for borrower in estate.counted)
    rest = left - sum(borrower.used(key_id, at) for borrower in estate.counted)
    wants = [borrower.wanted(key_id, at) for borrower in estate.counted]
    parts = split(max(0, rest), [*wants, mine.wanted[at] if mine else 0])
    loans = []
    for borrower in free:
        bound = borrower.bound(key_id, at, limit)
        aim = borrower.used(key_id, at) + parts[estate.counted.index(borrower)]
        loan = min(aim, bound + max(0, spare))
        spare -= max(0, loan - bound)
        loans.append(loan)
    return loans


def _parts(free: Sequence[QuotaFollower], estate: Capacity) -> list[int]:
    """Into how many parts a key of which nothing is said is divided, for each of `free`; 0: it has none yet."""
    whole = 1 if estate.borrowed is None else estate.borrowed.parts
    equal = whole * (1 + len(estate.borrowers))
    open_parts = [[n for n in (b.agreed.parts, b.offered.parts) if n] for b in estate.borrowers]
    found = []
    for borrower in free:
        own = open_parts[estate.borrowers.index(borrower)]
        others = sum(Fraction(1, min(parts)) for parts in open_parts if parts and parts is not own)
        if equal and others + Fraction(1, equal) <= Fraction(1, whole):
            own.append(equal)
            found.append(equal)
        else:  # others still have more than their part
            found.append(borrower.agreed.parts)
    return found
