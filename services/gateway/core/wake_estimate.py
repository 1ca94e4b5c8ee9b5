"""What a waiting client learns about a wake: the tier, its phase, and the seconds that are left."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from shared.messages.waker import MachineRecord, Phase

UNKNOWN_RETRY_SECONDS = 30
"""`Retry-After` while no wake has been measured: most of a short wake, little of a long one."""
MAX_RETRY_SECONDS = 60
"""SDKs do not retry after more than 120 s, older ones after more than 60 s."""


@dataclass(frozen=True, slots=True)
class WakeEstimate:
    """`eta_s`: whole seconds until a machine is ready; None: unknown."""

    tier: str
    phase: Phase | None
    eta_s: int | None

    @property
    def retry_after(self) -> int:
        """Whole seconds, 1 to 60."""
        return UNKNOWN_RETRY_SECONDS if self.eta_s is None else min(MAX_RETRY_SECONDS, max(1, self.eta_s))

    def after(self, previous: "WakeEstimate | None") -> "WakeEstimate":
        """Return what to show after `previous`. A record that arrived late counts a second more; nothing changed."""
        if previous is None or previous.eta_s is None or (previous.tier, previous.phase) != (self.tier, self.phase):
            return self
        return previous if self.eta_s == previous.eta_s + 1 else self

    def comment(self) -> bytes:
        """Return the comment for a waiting stream. Anything but a comment breaks one SDK or another."""
        eta = "?" if self.eta_s is None else self.eta_s
        return f": waking tier={self.tier} phase={self.phase or '?'} eta={eta}\n\n".encode()

    def to_error(self, *, should_retry: bool = True) -> ApiError:
        """Return the error for a client that asked not to wait longer."""
        eta = "?" if self.eta_s is None else f"{self.eta_s} s"
        return errors.waking(self.retry_after, eta, should_retry=should_retry)


def estimate_wake(first: str, records: Iterable[tuple[MachineRecord, float]], now: float) -> WakeEstimate:
    """Return what is known of a wake.

    Args:
        first: the first tier that the model may use.
        records: of the machines that it may use, in lineup order, each with its age in seconds.
        now: Unix seconds.
    """
    for record, age in records:
        if record.state == "waking":
            # An older waker sends no `ready_in`; its clock is taken to agree with ours.
            at = record.ready_at
            left = record.ready_in - age if record.ready_in is not None else None if at is None else at - now
            return WakeEstimate(record.tier, record.phase, None if left is None else max(0, round(left)))
    return WakeEstimate(first, None, None)
