"""What remains of a day's events once they are sealed: their sums, and a hash of all of them in any order.

The hash is the sum of each event's SHA-256, as numbers, modulo 2^256: with a day's events one can prove that they are
the ones that were sealed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from services.meter.core.rollups import add_sums, sums_of_event
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokenSums
from shared.units import DAY_S

_MODULUS = 2**256


@dataclass(frozen=True, order=True)
class DigestKey:
    day: str
    model: str
    tier: str
    machine: str
    key_id: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Digest:
    """`hash`: 64 hexadecimal digits. `first_at`, `last_at`: Unix seconds of the first and the last completion."""

    sums: TokenSums
    hash: str
    first_at: float
    last_at: float


def digest_events(events: Iterable[UsageEvent]) -> dict[DigestKey, Digest]:
    """Return one digest per key, sorted by key."""
    digests: dict[DigestKey, Digest] = {}
    for e in events:
        key = DigestKey(day_name_of(e.completed_at), e.model, e.tier, e.machine, e.key_id, e.outcome)
        one = Digest(
            sums=sums_of_event(e), hash=sha256(encode(e)).hexdigest(), first_at=e.completed_at, last_at=e.completed_at
        )
        digests[key] = merge_digests(digests[key], one) if key in digests else one
    return dict(sorted(digests.items()))


def merge_digests(a: Digest, b: Digest) -> Digest:
    return Digest(
        sums=add_sums(a.sums, b.sums),
        hash=f"{(int(a.hash, 16) + int(b.hash, 16)) % _MODULUS:064x}",
        first_at=min(a.first_at, b.first_at),
        last_at=max(a.last_at, b.last_at),
    )


def day_name_of(at: float) -> str:
    """Return the UTC day, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(math.floor(at), UTC).date().isoformat()


def start_of_day(at: float) -> float:
    return math.floor(at / DAY_S) * DAY_S
