"""What happens to machines and gateways, as far as it can explain a difference between engine and ledger."""

from dataclasses import dataclass
from enum import StrEnum

from shared.units import DAY_S

EVENT_RETENTION_S = 45 * DAY_S
"""A little longer than usage events are kept; what fleet events explained is in the audits by then."""


class FleetEventKind(StrEnum):
    """What happened."""

    START = "start"
    PROBE = "probe"
    LOST_PROBE = "lost_probe"
    DEATH = "death"
    """The machine died."""
    CRASH = "crash"
    """A gateway crashed."""
    RESET = "reset"
    """The engine's counters were reset."""


JOURNAL_KINDS = (FleetEventKind.START, FleetEventKind.PROBE, FleetEventKind.LOST_PROBE, FleetEventKind.DEATH)
"""Events that come from the fleet's journal."""


@dataclass(frozen=True, kw_only=True)
class FleetEvent:
    """Something that happened to a machine and may explain a difference."""

    machine: str
    at: float
    kind: FleetEventKind
    amount: int = 0
    """A probe's tokens; the requests that a gateway had there when it died."""
    since: float | None = None
    """For a reset: when the reading before it was taken."""
    lost: int = 0
    """For a reset: the tokens that the ledger has between that reading and the next."""
