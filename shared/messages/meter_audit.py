"""A day's audit: the counts of engines, gateways and ledger side by side, with the causes of differences."""

from typing import Literal

import msgspec

from shared.messages.codec import Message

AuditState = Literal["equal", "explained", "open", "wrong", "unknown"]
"""`explained`: they differ by no more than the causes explain; `open`: requests are in flight, ask again; `unknown`:
one of the counts is not available."""


class AuditQuery(Message, frozen=True, kw_only=True, tag="audit_query.v1"):
    """Request on `meter.audit`: one UTC day (`YYYY-MM-DD`)."""

    day: str


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A cause of a difference between an engine's count and the ledger's."""

    name: str
    tokens: int
    exact: bool
    """Whether `tokens` is exact, or an upper bound."""
    words: str


class MachineAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's day. Tokens are prompt and completion together; times Unix seconds."""

    machine: str
    state: AuditState
    words: str
    """The result in words, and what to do if it is wrong."""
    engine: int | None
    """What its engines counted; None: they could not be read, which is not 0."""
    probes: int
    """How many of these are the waker's probes."""
    ledger: int
    """What the ledger has of the day."""
    read: int
    """What the ledger has between the engines' readings: the part that can be compared."""
    difference: int | None
    """`engine` less `probes` and `read`."""
    causes: tuple[Cause, ...] = ()
    requests: int = 0
    """Usage events of the day."""
    engine_requests: int | None = None
    """Successful requests by the engines' count, probes included; None: they do not count them."""
    generations: int = 0
    readings: int = 0
    resets: int = 0
    read_until: float | None = None


class SourceAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a gateway, which numbers its events without gaps: the numbers are its own count."""

    source: str
    first: int
    """The first of its numbers on the day; `last` is the last one."""
    last: int
    kept: int
    """How many of these numbers the ledger has."""
    quarantined: int
    mark: int
    """The ledger has all of the source's numbers up to this one."""

    @property
    def missing(self) -> int:
        """Numbers of the day that the ledger lacks."""
        return self.last - self.first + 1 - self.kept - self.quarantined


class Audit(Message, frozen=True, kw_only=True, tag="audit.v1"):
    """Answer on `meter.audit`, and bucket `reports`, key `audit.<day>`."""

    day: str
    at: float
    """When it was made, by the meter's clock."""
    final: bool
    """The day is over and complete, and no part of it is open or wrong."""
    complete: bool
    """As `meter.tokens` has it."""
    events: int
    tokens: int
    """Prompt and completion of every outcome."""
    machines: tuple[MachineAudit, ...]
    sources: tuple[SourceAudit, ...]
    rollups: Literal["equal", "differ", "unknown"]
    """Whether the stored sums equal those of the events; unknown: the events are no longer kept."""
    conflicts: int
    """Messages received that day with another payload under a known id."""
    quarantined: int
    """Messages of that day in quarantine."""
    open_gaps: int
    unknown_names: int = 0
    """Models and keys in the day's events that the configuration or the bus does not have."""
