"""What a million tokens cost: the trailing days, as billing published them."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import msgspec

from services.site.app.report_view import ReportView
from shared.config.sections import Config
from shared.messages.billing import CAUSES, FigureState
from shared.messages.public import PublicDay, PublicPeriod, PublicReason
from shared.report_forms.charts import Bar, Plot, StackPlot, cause_bars, plot_days, stack_days

COLUMNS = (
    "from",
    "to",
    "state",
    "revision",
    "spend_usd",
    "tokens",
    "usd_per_mtok",
    "usd_per_mtok_output",
    "reason",
    "spend_before_credits_usd",
    "tax_usd",
    "always_on_usd",
    *(f"{cause}_usd" for cause in CAUSES),
)


class Economics(msgspec.Struct, frozen=True, kw_only=True):
    """What `/economics` shows, and its JSON."""

    as_of: str | None
    is_current: bool
    """False: billing has not confirmed the figures for a while, so they are the last known ones."""
    direction_weights: dict[str, str]
    period: PublicPeriod | None

    @property
    def cost_from(self) -> str | None:
        return self.period.first if self.period else None

    @property
    def cost_to(self) -> str | None:
        return self.period.to if self.period else None

    @property
    def state(self) -> FigureState | None:
        return self.period.state if self.period else None

    @property
    def usd_per_mtok(self) -> Decimal | None:
        return self.period.usd_per_mtok if self.period else None

    @property
    def reason(self) -> PublicReason | None:
        return self.period.reason if self.period else None

    @property
    def span(self) -> str:
        return f"{self.period.first} to {self.period.to}" if self.period else ""

    @property
    def bars(self) -> list[Bar]:
        return cause_bars(self.period.causes) if self.period else []

    @property
    def plot(self) -> Plot[PublicDay]:
        return plot_days(self.period.days if self.period else ())

    @property
    def stacks(self) -> StackPlot:
        return stack_days(self.period.days if self.period else ())


class EconomicsPage:
    """Loads the trailing days."""

    def __init__(self, config: Config, reports: ReportView) -> None:
        self._weights = {str(name): f"{weight:f}" for name, weight in config.billing.direction_weights.items()}
        self._reports = reports

    async def load(self, _variables: Mapping[str, str]) -> Economics:
        live = self._reports.headline()
        return Economics(
            as_of=live.as_of if live else None,
            is_current=live is not None and live.is_current,
            direction_weights=self._weights,
            period=live.headline.period if live else None,
        )


def economics_rows(page: Economics) -> Iterator[Sequence[object]]:
    """The days, then all of them together."""
    yield COLUMNS
    if page.period is None:
        return
    for day in page.period.days:
        yield _row(day, day.day, day.day, day.revision)
    yield _row(page.period, page.period.first, page.period.to, None)


def _row(figures: PublicDay | PublicPeriod, first: str, to: str, revision: int | None) -> Sequence[object]:
    return (
        first,
        to,
        figures.state,
        revision,
        figures.spend,
        figures.tokens,
        figures.usd_per_mtok,
        figures.usd_per_mtok_output,
        figures.reason,
        figures.spend_before_credits,
        figures.tax,
        figures.always_on.spend if figures.always_on else None,
        *(figures.causes.get(cause) for cause in CAUSES),
    )
