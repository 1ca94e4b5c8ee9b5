"""What billing publishes and answers about money: reports of days and periods, price bands, statements."""

from decimal import Decimal
from typing import Literal

import msgspec

from shared.messages.bill_coverage import MachineHours, SourceBills, Unbilled
from shared.messages.codec import Message
from shared.messages.explanation import Explanation
from shared.messages.values import UnixSeconds, check_amounts

FigureState = Literal["estimated", "provisional", "final", "restated"]
Cause = Literal["serving", "warm_idle", "waking", "failed_wake", "asleep", "shared", "unattributed", "unexplained"]
CAUSES: tuple[Cause, ...] = (
    "serving",
    "warm_idle",
    "waking",
    "failed_wake",
    "asleep",
    "shared",
    "unattributed",
    "unexplained",
)


class ReportQuery(Message, frozen=True, kw_only=True, tag="report_query.v1"):
    """Request on `billing.report`: the figures of one UTC day (`YYYY-MM-DD`)."""

    day: str
    explain: bool = False
    """Whether `explanations` are wanted."""


class TierFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One tier's day: its own cost and its part of the shared cost. `usd_per_mtok` is None without tokens."""

    tier: str
    spend: Decimal | None
    """None, with a reason, where a machine of it has no bill yet."""
    tokens: int
    usd_per_mtok: Decimal | None
    reason: str | None = None
    spend_known: Decimal | None = None
    """What is known of a spend that is None."""


class DirectionFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One direction's tokens and its part of the spend per million of them."""

    tokens: int
    usd_per_mtok: Decimal | None


class Directions(msgspec.Struct, frozen=True, kw_only=True):
    """By the published weights, which allocate all of the spend; `input` is uncached."""

    input: DirectionFigure
    cached: DirectionFigure
    output: DirectionFigure


class ModelFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A model's part of the spend of the tiers that served it, by weighted tokens. `model` None: nobody's tokens."""

    model: str | None
    spend: Decimal
    tokens: int
    usd_per_mtok: Decimal | None
    spend_before_credits: Decimal | None = None
    """What bands are made from; None where it was not recorded."""


class KeyFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A key's part of the spend, by weighted tokens; `wakes`: what its wakes cost; `key_id` None: nobody."""

    key_id: str | None
    spend: Decimal
    tokens: int
    usd_per_mtok: Decimal | None
    wakes: Decimal
    name: str | None = None
    """The key's name when this was shown; None: it has none or is not known. Never stored with a figure."""


class AlwaysOn(msgspec.Struct, frozen=True, kw_only=True):
    """What the same tokens would have cost with every machine awake all the time; None with a reason."""

    spend: Decimal | None
    usd_per_mtok: Decimal | None
    reason: str | None = None


class Variance(msgspec.Struct, frozen=True, kw_only=True):
    """How far the bill differs from what was accrued for the same machine hours."""

    accrued: Decimal
    billed: Decimal
    difference: Decimal
    """`billed` less `accrued`."""


class ReportFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures that the reports of a day and of a period share. Amounts are in USD.

    `spend`, `state` and every price are None where they are unknown, with `reason`: never 0.
    """

    state: FigureState | None
    """For a period: the least certain state of its days."""
    spend: Decimal | None
    tokens: int
    usd_per_mtok: Decimal | None
    reason: str | None
    causes: dict[str, Decimal]
    """Every cause of `CAUSES`; they sum to `spend`, else to `spend_known`. Empty while there is neither."""
    tiers: tuple[TierFigure, ...]
    """With `causes['unattributed']` they sum to `spend`."""
    directions: Directions | None
    tax: Decimal
    spend_before_credits: Decimal | None
    tokens_failed: int = 0
    """Tokens of failed requests: waste, not part of `tokens`."""
    effective_spend: Decimal | None = None
    """By EffectiveCost, which spreads commitments over their time. None unless every day with a cost has it."""
    usd_per_mtok_before_credits: Decimal | None = None
    usd_per_mtok_output: Decimal | None = None
    """All of the spend by the completion tokens alone."""
    models: tuple[ModelFigure, ...] = ()
    """They sum to the tiers' spend."""
    keys: tuple[KeyFigure, ...] = ()
    """They also sum to the tiers' spend."""
    always_on: AlwaysOn | None = None
    variance: Variance | None = None
    """None if no hour that was accrued has been billed."""
    spend_known: Decimal | None = None
    """The known part of a spend that is None because a bill is missing; `causes` sum to it."""


class DayReport(ReportFigures, Message, frozen=True, kw_only=True, tag="day_report.v1"):
    """Answer on `billing.report`."""

    day: str
    revision: int
    currency: str
    directions: Directions
    sources: tuple[str, ...] = ()
    """What the figures were made from: each file's name, source and SHA-256. A later file with the same charges is not
    listed."""
    change: str | None = None
    """Which figure changed since the previous revision, by how much, and why; None for the first one."""
    usage_complete: bool = False
    """Whether the meter has counted all of the day's tokens; if not, `usage_reasons` say why."""
    usage_reasons: tuple[str, ...] = ()
    billed_share: Decimal | None = None
    """How much of `spend` comes from charges and not from accruals, 0 to 1."""
    shared_by: str | None = None
    """What the shared cost was spread by: `direct cost`, `tokens`, else evenly. None if there is none."""
    charges: int = 0
    """How many delivered charges it was made from."""
    left_out: str | None = None
    """What did not fit into a message: `keys`. None if everything is there. The published report has everything."""
    failed: bool = False
    """The report could not be made: `reason` says why, and it has no figure. It is never published."""
    hours: tuple[MachineHours, ...] = ()
    """The hours of each machine with charges for its use."""
    explanations: tuple[Explanation, ...] = ()
    """What explains the unattributed cost, the shared cost and each tier, if the query asks for it. Never stored."""
    unbilled: tuple[Unbilled, ...] = ()
    """The machines whose bill has not come, or not for all of the day."""


class ReportsQuery(Message, frozen=True, kw_only=True, tag="reports_query.v1"):
    """Request on `billing.reports`: the figures of `days` UTC days in a row, the last of them `to`."""

    to: str
    days: int
    explain: bool = False
    """Whether the period's `explanations` are wanted."""


class PeriodReport(ReportFigures, Message, frozen=True, kw_only=True, tag="period_report.v1"):
    """Answer on `billing.reports`: ratios of sums, never means of ratios."""

    first: str
    to: str
    complete_through: str | None
    """The last day up to which every day comes from bills and complete usage."""
    days: tuple[DayReport, ...]
    left_out: str | None = None
    """What did not fit into a message, such as the days' keys. None if everything is there."""
    explanations: tuple[Explanation, ...] = ()
    """As in a day report, for all days together."""
    bills: tuple[SourceBills, ...] = ()


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A model's price band: `low` < the cost of a million tokens <= `high`, in USD; None with a reason."""

    model: str
    day: str
    """The UTC day from whose start it is in force."""
    low: Decimal | None
    high: Decimal | None
    trailing_7: Decimal | None
    """The cost per million tokens before credits, of the seven days before `day`."""
    trailing_28: Decimal | None
    reason: str | None = None
    left_out: tuple[str, ...] = ()
    """Days of the 28 that did not count, with why."""


class BandsQuery(Message, frozen=True, kw_only=True, tag="bands_query.v1"):
    """Request on `billing.bands`: the bands in force on a UTC day."""

    day: str


class Bands(Message, frozen=True, kw_only=True, tag="bands.v1"):
    """Answer on `billing.bands`: one for each configured model."""

    day: str
    bands: tuple[Band, ...]


class StatementQuery(Message, frozen=True, kw_only=True, tag="statement_query.v1"):
    """Request on `billing.statement`: what a key used in a calendar month (`YYYY-MM`, UTC)."""

    key_id: str
    month: str
    others: tuple[str, ...] = ()
    """Further keys, of which the sums are wanted too."""


class StatementLine(msgspec.Struct, frozen=True, kw_only=True):
    """A model's tokens of one day at the upper end of the band in force on it."""

    day: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    usd_per_mtok: Decimal | None
    amount: Decimal | None
    """None, with a reason, where no band was in force."""
    reason: str | None = None


class KeyMonthCost(msgspec.Struct, frozen=True, kw_only=True):
    """A statement without its lines."""

    key_id: str
    complete: bool
    tokens: int
    amount: Decimal | None
    reasons: tuple[str, ...] = ()


class Statement(Message, frozen=True, kw_only=True, tag="statement.v1"):
    """Answer on `billing.statement`. `amount` is None where a line has none."""

    key_id: str
    month: str
    complete: bool
    """The month is over and all of its usage counted."""
    tokens: int
    amount: Decimal | None
    lines: tuple[StatementLine, ...]
    reasons: tuple[str, ...] = ()
    name: str | None = None
    """The key's; None: it has none or is not known."""
    others: tuple[KeyMonthCost, ...] = ()
    """Of those in the query. A key that is missing here has to be asked about by itself."""


class Published(Message, frozen=True, kw_only=True, tag="published.v1"):
    """`billing.published`, and a day's newest in bucket `reports`: its files lie in the object store `books`."""

    day: str
    revision: int
    state: FigureState | None
    """None: a figure that was published is no longer known."""
    usd_per_mtok: Decimal | None
    change: str | None
    files: tuple[str, ...]
    at: UnixSeconds

    def __post_init__(self) -> None:
        check_amounts(self.usd_per_mtok)
