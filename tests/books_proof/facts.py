"""What happened in a month, as plain facts: charges, deliveries, machines' moves and requests.

The generator makes them, the vendors' writers put the charges into files, the services are told of them, and the
oracle computes the figures from them. Nothing of the project is imported here.
"""

from dataclasses import dataclass
from fractions import Fraction

HOUR = 3600
DAY = 24 * HOUR
CAUSES = ("serving", "warm_idle", "waking", "failed_wake", "asleep", "shared", "unattributed", "unexplained")


@dataclass(frozen=True)
class Tier:
    """A class of machine; `price` is USD per hour, None where it is not known before a bill."""

    name: str
    price: Fraction | None


@dataclass(frozen=True)
class Machine:
    """One machine with the names that bills have for it and its disks."""

    id: str
    tier: str
    instance: str
    resources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rate:
    """How much of a currency one USD is, for charges that begin at `start` (Unix seconds) or later."""

    currency: str
    per_usd: Fraction
    start: int


@dataclass(frozen=True)
class Charge:
    """One line of a bill. Amounts are in `currency`; times are Unix seconds, ends exclusive."""

    source: str
    issuer: str
    account: str
    period: tuple[int, int]
    start: int
    end: int
    billed: Fraction
    currency: str = "USD"
    effective: Fraction | None = None
    """None: the file does not tell it."""
    category: str = "Usage"
    """Usage, Purchase, Tax, Credit or Adjustment."""
    service: str | None = "Compute"
    """FOCUS's ServiceCategory; None: the file does not tell it."""
    resource: str | None = None
    tier_tag: str | None = None
    hours: Fraction | None = None
    """How long the machine ran in it, where the bill says."""
    invoice: str | None = None
    correction: bool = False
    line: str = ""
    """AWS's line item type, for the Cost and Usage Report."""
    plan_used: tuple[Fraction, Fraction] | None = None
    """Of a Savings Plan's fee: what was committed to, and what of it was used."""


@dataclass(frozen=True)
class Delivery:
    """One import: the rows in the order in which the file has them."""

    source: str
    vendor: str
    file_format: str
    """csv, gzip or parquet."""
    rows: tuple[Charge, ...]


@dataclass(frozen=True)
class Move:
    """A machine's change of state, in Unix seconds."""

    at: Fraction
    machine: str
    state: str
    key: str | None = None
    """Whose request caused the wake."""


@dataclass(frozen=True)
class Use:
    """One request at an engine, from `start` to `end` (Unix seconds); it counts when it ends."""

    start: Fraction
    end: Fraction
    key: str
    model: str
    tier: str
    machine: str
    prompt: int
    cached: int
    completion: int
    failed: bool


@dataclass(frozen=True)
class Payable:
    """What is to be paid for an invoice; with `invoice` None for the charges of a period that name none."""

    source: str
    issuer: str
    account: str
    period: tuple[int, int]
    invoice: str | None
    amount: Fraction


@dataclass(frozen=True)
class World:
    """All that the books can know at `now`."""

    now: int
    tiers: tuple[Tier, ...]
    machines: tuple[Machine, ...]
    models: tuple[str, ...]
    rates: tuple[Rate, ...]
    append_sources: tuple[str, ...]
    deliveries: tuple[Delivery, ...]
    moves: tuple[Move, ...]
    uses: tuple[Use, ...]
    payables: tuple[Payable, ...] = ()
