"""What a caller who waits is told: which tier wakes, in which phase, and for how long still."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from shared.messages.waker import MachineRecord, Phase

UNKNOWN_RETRY_SECONDS = 30
"""`Retry-After` while no wake has been measured: most of a short one, little of a long one."""
MAX_RETRY_SECONDS = 60
"""SDKs give up beyond 120 s, older ones beyond 60."""


@dataclass(frozen=True)
class Outlook:
    """`eta` in seconds; None: nothing is known."""

    tier: str
    phase: Phase | None
    eta: int | None

    @property
    def retry_after(self) -> int:
        """Whole seconds, 1 to 60."""
        return UNKNOWN_RETRY_SECONDS if self.eta is None else min(MAX_RETRY_SECONDS, max(1, self.eta))

    def comment(self) -> bytes:
        """For a waiting stream. A comment only: anything else breaks one SDK or another."""
        eta = "?" if self.eta is None else self.eta
        return f": waking tier={self.tier} phase={self.phase or '?'} eta={eta}\n\n".encode()

    def refusal(self) -> ApiError:
        """For a caller who asked not to wait longer."""
        return errors.waking(self.retry_after, "?" if self.eta is None else f"{self.eta} s")


def outlook(first: str, records: Iterable[MachineRecord], now: float) -> Outlook:
    """`records`: of the machines that the model may have, in its lineup's order; `first`: the first of their tiers."""
    for record in records:
        if record.state == "waking":
            eta = None if record.ready_at is None else max(0, round(record.ready_at - now))
            return Outlook(record.tier, record.phase, eta)
    return Outlook(first, None, None)
