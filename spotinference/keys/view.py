"""How API keys are shown: their state and their limits."""

import time

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


def key_state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "usable" if record.usable(time.time()) else "expired"


def format_limits(record: KeyRecord) -> str:
    limits = [f"{limit} {counts}" for field, counts in LIMITS.items() if (limit := getattr(record, field)) is not None]
    return "\n".join(limits) or "none"
