"""What a day's events leave behind: their sums, and a hash of all of them in any order.

The hash is the sum of the SHA-256 of each event, as numbers, modulo 2^256: whoever has the events of a day can prove
that they are the ones that were sealed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from services.meter.core.rollups import add_sums, sums_of_event
from services.meter.core.sequence_ranges import DAY
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokenSums

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
    """Sorted by key."""
    found: dict[DigestKey, Digest] = {}
    for e in events:
        key = DigestKey(day_name_of(e.completed_at), e.model, e.tier, e.machine, e.key_id, e.outcome)
        one = Digest(
            sums=sums_of_event(e), hash=sha256(encode(e)).hexdigest(), first_at=e.completed_at, last_at=e.completed_at
        )
        found[key] = merge_digests(found[key], one) if key in found else one
    return dict(sorted(found.items()))


def merge_digests(a: Digest, b: Digest) -> Digest:
    return Digest(
        sums=add_sums(a.sums, b.sums),
        hash=f"{(int(a.hash, 16) + int(b.hash, 16)) % _MODULUS:064x}",
        first_at=min(a.first_at, b.first_at),
        last_at=max(a.last_at, b.last_at),
    )


def day_name_of(at: float) -> str:
    """The UTC day, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(math.floor(at), UTC).date().isoformat()


def start_of_day(at: float) -> float:
    return math.floor(at / DAY) * DAY
