"""How API keys are shown: their state and their limits."""

import time
from collections.abc import Iterable

from shared.messages.keys import KeyRecord

LIMITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrency": "concurrent",
    "monthly_tokens": "tokens/month",
    "wakes_per_hour": "wakes/hour",
    "wake_cost_per_day": "USD of wakes/day",
}
"""The limits in a key's record, and their units. Without one: unlimited, or for wakes the limit in `[gateway]`."""


def list_records(records: Iterable[KeyRecord]) -> dict[KeyRecord, float | None]:
    """Return one record for each key, oldest first, and until when an earlier secret of it is valid, if one is."""
    by_id: dict[str, list[KeyRecord]] = {}
    for record in records:
        by_id.setdefault(record.id, []).append(record)
    listed, now = {}, time.time()
    for secrets in sorted(by_id.values(), key=lambda secrets: secrets[0].created_at):
        newest = min(secrets, key=lambda record: (record.replaced_at is not None, -(record.replaced_at or 0.0)))
        ends = [r.expires_at for r in secrets if r.replaced_at is not None and r.usable(now) and r is not newest]
        listed[newest] = max((end for end in ends if end is not None), default=None)
    return listed


def key_state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "usable" if record.usable(time.time()) else "expired"


def format_limits(record: KeyRecord) -> str:
    limits = [f"{limit} {counts}" for field, counts in LIMITS.items() if (limit := getattr(record, field)) is not None]
    return "\n".join(limits) or "none"
