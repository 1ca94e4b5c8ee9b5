"""Limits on the wakes that a key may cause: per hour, and by cost per day. The waker counts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from shared.messages.gateway import WakeCause
from shared.messages.keys import KeyRecord
from shared.messages.waker import KeyWakes

WakeLimit = Literal["wakes", "wake_cost"]
RETRY_SECONDS = 60
"""The gateway does not know when the oldest wake drops out of the hour; clients wait one minute at most."""


@dataclass(frozen=True, slots=True)
class WakeLimits:
    """`used` has the waker's counts by key id; the limits apply to keys without limits of their own."""

    wakes_per_hour: int
    cost_per_day: Decimal
    used: Mapping[str, KeyWakes]

    def cause(self, key: KeyRecord) -> WakeCause:
        """Return the key and its limits, for the waker."""
        cost_per_day = self.cost_per_day if key.wake_cost_per_day is None else key.wake_cost_per_day
        return WakeCause(
            key_id=key.id,
            wakes_per_hour=self.wakes_per_hour if key.wakes_per_hour is None else key.wakes_per_hour,
            cost_per_day=Decimal(cost_per_day),  # the configuration's `Money` cannot be encoded
        )

    def reached(self, key: KeyRecord, model: str) -> WakeLimit | None:
        """Return the limit that forbids the key to wait for the model's wake now; None: it may wait."""
        used, limits = self.used.get(key.id), self.cause(key)
        if used is None or model in used.under_way:
            return None
        if used.wakes >= limits.wakes_per_hour:
            return "wakes"
        return "wake_cost" if used.cost >= limits.cost_per_day else None

    def error(self, key: KeyRecord, reached: WakeLimit) -> ApiError:
        limits = self.cause(key)
        if reached == "wake_cost":
            return errors.wake_cost_spent(limits.cost_per_day)
        return errors.rate_limited(f"{limits.wakes_per_hour} wakes of sleeping machines per hour", RETRY_SECONDS)
