"""Which bills have arrived, and for which hours: parts of day and period reports."""

from decimal import Decimal

import msgspec


class MachineHours(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's hours on a day: those that its charges count, and those that the journal knows."""

    machine: str
    billed: Decimal | None
    """None: its charges count no hours."""
    known: Decimal
    """Hours awake, waking, falling asleep or broken, by the journal."""
    unexplained: Decimal
    """Hours billed beyond the known ones, charge by charge."""
    asleep: Decimal
    """The part of `unexplained` in which the machine slept by the journal. The journal does not cover the rest."""
    spend: Decimal
    """The unexplained part of its charges for use, in USD."""


class Unbilled(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that was awake on a day and whose charges for that have not arrived."""

    machine: str
    tier: str
    """The machine's tier at that time."""
    since: str | None = None
    """The beginning of the first hour without a charge (RFC 3339); None: it has no charge on that day."""
    estimated: bool = False
    """Whether a price or a running bill stands in for the charges; if not, the cost is unknown."""


class SourceBills(msgspec.Struct, frozen=True, kw_only=True):
    """How far a source's bills reach, for the machines that it charged for in a period."""

    source: str | None
    """None: no source has charged for these machines yet."""
    machines: tuple[str, ...]
    charges_through: str | None
    """The last day with a charge for the use of one of them."""
    delivered_through: str | None
    """The last day up to which no bill of theirs is missing."""
    missing: dict[str, tuple[str, ...]]
    """Day to the machines that have no bill yet, be their cost unknown or estimated."""
