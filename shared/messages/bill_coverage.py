"""Which bills have come, and for which hours: parts of the reports of days and periods."""

from decimal import Decimal

import msgspec


class MachineHours(msgspec.Struct, frozen=True, kw_only=True):
    """A day's hours of one machine, as its charges count them, against those that the journal knows."""

    machine: str
    billed: Decimal | None
    """None: its charges count no hours."""
    known: Decimal
    """Awake, waking, falling asleep or broken by the journal."""
    unexplained: Decimal
    """Billed above what is known, charge by charge."""
    asleep: Decimal
    """The part of `unexplained` in which the journal says that the machine slept; of the rest it says nothing."""
    spend: Decimal
    """What of its charges for use is unexplained, in USD."""


class Unbilled(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that was awake on a day, and for whose use charges are still to come."""

    machine: str
    tier: str
    """Of which it was a machine then."""
    since: str | None = None
    """The beginning of the first hour without a charge (RFC 3339); None: it has no charge on that day."""
    estimated: bool = False
    """Whether a price or a running bill stands in for the charges; if not, the cost is unknown."""


class SourceBills(msgspec.Struct, frozen=True, kw_only=True):
    """How far the bills of a source reach that has charged for machines in a period."""

    source: str | None
    """None: no source has charged for these machines yet."""
    machines: tuple[str, ...]
    charges_through: str | None
    """The last day with a charge for the use of one of them."""
    delivered_through: str | None
    """The last day up to which no bill of theirs is missing."""
    missing: dict[str, tuple[str, ...]]
    """Day to the machines that have no bill yet, be their cost unknown or estimated."""
