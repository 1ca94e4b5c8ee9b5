"""What billing publishes for everybody: figures that name no key, account, machine, endpoint or file.

Each value is built from named fields. A reason is one of a list, since a text of billing's own may name anything.
"""

from decimal import Decimal
from typing import Literal

import msgspec

from shared.messages.billing import FigureState
from shared.messages.codec import Message
from shared.messages.values import Count, UnixSeconds, check_amounts

PublicReason = Literal["no_tokens", "no_bill", "bill_missing", "failed", "no_price"]
"""Why a figure is None. `bill_missing`: a part of the bill; `no_price`: a tier has no price per hour."""
BandReason = Literal["few_tokens", "no_cost", "above_ladder", "not_made"]


class PublicTier(msgspec.Struct, frozen=True, kw_only=True):
    """A tier with its part of the shared cost. `spend` is None where a bill is missing."""

    tier: str
    spend: Decimal | None
    spend_known: Decimal | None
    tokens: int
    usd_per_mtok: Decimal | None

    def __post_init__(self) -> None:
        check_amounts(self.spend, self.spend_known, self.usd_per_mtok)


class PublicModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model's part of the spend; None: cost of tiers that served nobody."""

    model: str | None
    spend: Decimal
    tokens: int
    usd_per_mtok: Decimal | None

    def __post_init__(self) -> None:
        check_amounts(self.spend, self.usd_per_mtok)


class PublicDirection(msgspec.Struct, frozen=True, kw_only=True):
    """One direction's tokens, and its part of the spend per million of them."""

    tokens: int
    usd_per_mtok: Decimal | None

    def __post_init__(self) -> None:
        check_amounts(self.usd_per_mtok)


class PublicDirections(msgspec.Struct, frozen=True, kw_only=True):
    """By the published weights, which allocate all of the spend; `input` is uncached."""

    input: PublicDirection
    cached: PublicDirection
    output: PublicDirection


class PublicAlwaysOn(msgspec.Struct, frozen=True, kw_only=True):
    """What the same tokens would have cost with every machine awake all the time."""

    spend: Decimal | None
    usd_per_mtok: Decimal | None
    reason: PublicReason | None = None

    def __post_init__(self) -> None:
        check_amounts(self.spend, self.usd_per_mtok)


class PublicFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures that a day and a period share, as the reports have them. Amounts are in USD."""

    state: FigureState | None
    spend: Decimal | None
    spend_known: Decimal | None
    """The known part of a spend that is None."""
    tokens: int
    tokens_failed: int
    """Tokens of failed requests: waste, not part of `tokens`."""
    usd_per_mtok: Decimal | None
    usd_per_mtok_output: Decimal | None
    reason: PublicReason | None
    causes: dict[str, Decimal]
    """They sum to `spend`, else to `spend_known`. Empty while there is neither."""
    tiers: tuple[PublicTier, ...]
    models: tuple[PublicModel, ...]
    directions: PublicDirections | None
    always_on: PublicAlwaysOn | None
    tax: Decimal
    spend_before_credits: Decimal | None

    def __post_init__(self) -> None:
        check_amounts(self.spend, self.spend_known, self.usd_per_mtok, self.usd_per_mtok_output)
        check_amounts(*self.causes.values(), self.tax, self.spend_before_credits)


class PublicDay(PublicFigures, frozen=True, kw_only=True):
    """One UTC day."""

    day: str
    revision: int
    usage_complete: bool
    charges: int
    """How many delivered charges it was made from."""
    billed_share: Decimal | None
    """How much of `spend` comes from charges and not from accruals, 0 to 1."""
    shared_by: str | None
    """What the shared cost was spread by; None if there is none."""


class PublicPeriod(PublicFigures, frozen=True, kw_only=True):
    """Several days in a row: ratios of sums, never means of ratios."""

    first: str = msgspec.field(name="from")
    to: str
    complete_through: str | None
    """The last day up to which every day comes from bills and complete usage."""
    days: tuple[PublicDay, ...]


class PublicBand(msgspec.Struct, frozen=True, kw_only=True):
    """A model's price band: `low` < the cost of a million tokens <= `high`; None with a reason."""

    model: str
    day: str
    """The UTC day from whose start it is in force."""
    low: Decimal | None
    high: Decimal | None
    trailing_7: Decimal | None
    trailing_28: Decimal | None
    reason: BandReason | None
    left_out: tuple[str, ...]
    """Days of the 28 that did not count."""

    def __post_init__(self) -> None:
        check_amounts(self.low, self.high, self.trailing_7, self.trailing_28)


class PublishedDay(Message, frozen=True, kw_only=True, tag="public_day.v1"):
    """Bucket `reports`, key `day.<day>`: the newest figures of a day."""

    figures: PublicDay
    at: UnixSeconds
    """When it was published."""


class Headline(Message, frozen=True, kw_only=True, tag="headline.v1"):
    """Bucket `reports`, key `headline`: the trailing days and the price list. Billing repeats it while it works."""

    period: PublicPeriod
    bands: tuple[PublicBand, ...]
    band_tokens: Count
    """A model with fewer tokens in seven days gets no new band."""
    at: UnixSeconds
