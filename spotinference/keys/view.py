"""API keys as a table and as JSON."""

import time

from shared.messages.keys import KeyRecord

LIMITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrency": "at once",
    "monthly_tokens": "tokens/month",
    "wakes_per_hour": "wakes/hour",
    "wake_cost_per_day": "USD of wakes/day",
}
"""Fields of a key's record that bound it, and what they count. Absent: unlimited, and of wakes as `[gateway]` says."""


def key_state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "usable" if record.usable(time.time()) else "expired"


def format_limits(record: KeyRecord) -> str:
    told = [f"{limit} {counts}" for field, counts in LIMITS.items() if (limit := getattr(record, field)) is not None]
    return "\n".join(told) or "none"
