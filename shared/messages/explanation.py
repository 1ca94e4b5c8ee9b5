"""The lines that make up a figure of a report."""

from decimal import Decimal
from typing import Literal

import msgspec

LineKind = Literal["charges", "estimate", "shared"]
"""`estimate`: no bill has come yet; `shared`: a tier's part of the shared cost."""


class CostLine(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a figure: charges that are alike, or cost without a charge."""

    what: LineKind
    amount: Decimal
    resource: str | None = None
    """The provider's id; of an estimate the machine."""
    service: str | None = None
    """As the provider names it."""
    category: str | None = None
    """FOCUS's ChargeCategory."""
    tag: str | None = None
    """What the tag `[billing] tier_tag` says, whether or not it names a tier."""
    source: str | None = None
    """The source that delivered the charges."""
    file: str | None = None
    """The file they came in; of several delivered together, the first and how many more."""
    charges: int = 0
    """Delivered rows."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure is made of, the largest parts first; `lines` and `rest` sum to `amount`.

    That is the figure itself; of a tier whose spend is None, because a bill is missing, what is known of it.
    """

    figure: str
    """`unattributed`, `shared`, or a tier."""
    is_tier: bool
    amount: Decimal
    lines: tuple[CostLine, ...]
    more: int = 0
    """How many lines are left out; `rest` is their sum."""
    rest: Decimal = Decimal(0)
