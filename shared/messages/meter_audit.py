"""What the meter answers about a day's counts: engines, gateways and ledger beside each other, with what explains."""

from typing import Literal

import msgspec

from shared.messages.codec import Message

AuditState = Literal["equal", "explained", "open", "wrong", "unknown"]
"""`explained`: apart by no more than what is named explains; `open`: work is under way, ask again; `unknown`: one of
the counts is not to be had."""


class AuditQuery(Message, frozen=True, kw_only=True, tag="audit_query.v1"):
    """Request on `meter.audit`: one UTC day (`YYYY-MM-DD`)."""

    day: str


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Something that sets an engine's count apart from the ledger's."""

    name: str
    tokens: int
    exact: bool
    """Whether these are its tokens, or the most that it can be."""
    words: str


class MachineAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's day. Tokens are prompt and completion together; times Unix seconds."""

    machine: str
    state: AuditState
    words: str
    """What it comes to, and what to do where it is wrong."""
    engine: int | None
    """What its engines counted; None: nobody could read it, which is not 0."""
    probes: int
    """Of these the waker's probes."""
    ledger: int
    """What the ledger has of the day."""
    read: int
    """What the ledger has of the time in which the engines were read: the part that can be compared."""
    difference: int | None
    """`engine` less `probes` and `read`."""
    causes: tuple[Cause, ...] = ()
    requests: int = 0
    """Usage events of the day."""
    engine_requests: int | None = None
    """Requests that ended well by the engines' count, where they keep one; probes included."""
    generations: int = 0
    readings: int = 0
    resets: int = 0
    read_until: float | None = None


class SourceAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One boot of a gateway, which numbers its events without a gap: they are its own count."""

    source: str
    first: int
    """Of the day."""
    last: int
    kept: int
    """Events that the ledger has of these numbers."""
    quarantined: int
    mark: int
    """Up to here the ledger has all of the source's numbers."""

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
    """The day is over and complete, and nothing of it is open or wrong."""
    complete: bool
    """As `meter.tokens` has it."""
    events: int
    tokens: int
    """Prompt and completion of every outcome."""
    machines: tuple[MachineAudit, ...]
    sources: tuple[SourceAudit, ...]
    rollups: Literal["equal", "differ", "unknown"]
    """The sums against the events counted again; unknown: the events are no longer kept."""
    conflicts: int
    """Received that day: another payload under a known id."""
    quarantined: int
    """Of that day, kept and not counted."""
    open_gaps: int
    unknown_names: int = 0
    """Models and keys of the day's events that the configuration or the bus does not know."""
