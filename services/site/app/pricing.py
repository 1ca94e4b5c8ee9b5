"""The price list: a band for each model, and the cost that it follows from."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from services.site.app.report_view import ReportView
from shared.config.sections import Config
from shared.messages.public import PublicBand, PublicDirections

COLUMNS = (
    "model",
    "in_force_since",
    "above_usd_per_mtok",
    "to_usd_per_mtok",
    "cost_7_days_usd_per_mtok",
    "cost_28_days_usd_per_mtok",
    "reason",
    "days_left_out",
)


class Pricing(msgspec.Struct, frozen=True, kw_only=True):
    """What `/pricing` shows, and its JSON."""

    as_of: str | None
    is_current: bool
    bands: tuple[PublicBand, ...]
    steps: tuple[str, ...]
    """The ladder, in USD per million tokens."""
    min_tokens: int
    cost_from: str | None
    """The days of `directions`."""
    cost_to: str | None
    state: str | None
    direction_weights: dict[str, str]
    directions: PublicDirections | None


class PricingPage:
    """Loads the price list."""

    def __init__(self, config: Config, reports: ReportView) -> None:
        self._billing = config.billing
        self._reports = reports

    async def load(self, _variables: Mapping[str, str]) -> Pricing:
        live = self._reports.headline()
        period = live.headline.period if live else None
        return Pricing(
            as_of=live.as_of if live else None,
            is_current=live is not None and live.is_current,
            bands=live.headline.bands if live else (),
            steps=tuple(f"{step:f}" for step in self._billing.band_steps),
            min_tokens=live.headline.band_tokens if live else self._billing.band_min_tokens,
            cost_from=period.first if period else None,
            cost_to=period.to if period else None,
            state=period.state if period else None,
            direction_weights={str(name): f"{weight:f}" for name, weight in self._billing.direction_weights.items()},
            directions=period.directions if period else None,
        )


def pricing_rows(page: Pricing) -> Iterator[Sequence[object]]:
    yield COLUMNS
    for band in page.bands:
        days = " ".join(band.left_out)
        yield band.model, band.day, band.low, band.high, band.trailing_7, band.trailing_28, band.reason, days
