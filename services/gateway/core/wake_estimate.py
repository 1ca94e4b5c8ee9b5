"""What a waiting client hears of a wake: the tier that wakes, its phase, and the seconds that are left."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from shared.messages.waker import MachineRecord, Phase

UNKNOWN_RETRY_SECONDS = 30
"""`Retry-After` while no wake has been measured: most of a short one, little of a long one."""
MAX_RETRY_SECONDS = 60
"""SDKs give up beyond 120 s, older ones beyond 60."""


@dataclass(frozen=True, slots=True)
class WakeEstimate:
    """`eta_s`: whole seconds until a machine is ready; None: not known."""

    tier: str
    phase: Phase | None
    eta_s: int | None

    @property
    def retry_after(self) -> int:
        """Whole seconds, 1 to 60."""
        return UNKNOWN_RETRY_SECONDS if self.eta_s is None else min(MAX_RETRY_SECONDS, max(1, self.eta_s))

    def comment(self) -> bytes:
        """For a waiting stream. A comment only: anything else breaks one SDK or another."""
        eta = "?" if self.eta_s is None else self.eta_s
        return f": waking tier={self.tier} phase={self.phase or '?'} eta={eta}\n\n".encode()

    def to_error(self, *, should_retry: bool = True) -> ApiError:
        """For a client that asked not to wait longer."""
        eta = "?" if self.eta_s is None else f"{self.eta_s} s"
        return errors.waking(self.retry_after, eta, should_retry=should_retry)


def estimate_wake(first: str, records: Iterable[tuple[MachineRecord, float]], now: float) -> WakeEstimate:
    """Return what is known of a wake.

    Args:
        first: the first of the tiers that the model may have.
        records: of the machines that it may have, in its lineup's order, each with the seconds since it was written.
        now: Unix seconds.
    """
    for record, age in records:
        if record.state == "waking":
            # A waker that says no `ready_in` has a clock like ours.
            at = record.ready_at
            left = record.ready_in - age if record.ready_in is not None else None if at is None else at - now
            return WakeEstimate(record.tier, record.phase, None if left is None else max(0, round(left)))
    return WakeEstimate(first, None, None)
