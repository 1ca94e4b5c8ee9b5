"""The first page: what this is, the two lines to change, and what is awake."""

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal

import msgspec

from services.site.app.report_view import ReportView
from services.site.core.fleet_status import FleetStatus
from shared.config.sections import Config
from shared.messages.billing import FigureState
from shared.messages.public import PublicBand, PublicReason


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What the first page shows."""

    api_url: str
    models: list[str]
    as_of: str | None
    is_current: bool
    """False: the figures are the last known ones."""
    cost_from: str | None
    cost_to: str | None
    state: FigureState | None
    usd_per_mtok: Decimal | None
    reason: PublicReason | None
    bands: tuple[PublicBand, ...]
    fleet: FleetStatus


class OverviewPage:
    """Loads the first page."""

    def __init__(
        self,
        config: Config,
        reports: ReportView,
        load_status: Callable[[Mapping[str, str]], Awaitable[FleetStatus]],
    ) -> None:
        self._config = config
        self._load_status = load_status
        self._reports = reports

    async def load(self, variables: Mapping[str, str]) -> Overview:
        live = self._reports.headline()
        period = live.headline.period if live else None
        return Overview(
            api_url=self._config.api_url,
            models=sorted(self._config.models),
            as_of=live.as_of if live else None,
            is_current=live is not None and live.is_current,
            cost_from=period.first if period else None,
            cost_to=period.to if period else None,
            state=period.state if period else None,
            usd_per_mtok=period.usd_per_mtok if period else None,
            reason=period.reason if period else None,
            bands=live.headline.bands if live else (),
            fleet=await self._load_status(variables),
        )
