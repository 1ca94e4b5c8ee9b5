"""Figures that prose names: each with its dates, its state and the page that says how it was made."""

from collections.abc import Mapping

import msgspec

from services.site.app.report_view import ReportView
from shared.report_forms.words import format_usd

COST = "/economics"
LIVE = ("usd_per_mtok", "usd_per_mtok_output")
"""Their names."""


class LiveFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure as prose shows it."""

    words: str
    note: str
    """Its dates and its state, or why there is none."""
    path: str

    @property
    def markdown(self) -> str:
        return f"[{self.words}]({self.path}) ({self.note})"


class LiveFigures:
    """The figures that billing has published."""

    def __init__(self, reports: ReportView) -> None:
        self._reports = reports

    async def load(self) -> Mapping[str, LiveFigure]:
        """Return every figure by its name."""
        live = self._reports.headline()
        if live is None:
            return dict.fromkeys(LIVE, LiveFigure(words="not known yet", note="nothing is published", path=COST))
        period = live.headline.period
        note = f"{period.first} to {period.to} UTC, {period.state or 'unknown'}, as of {live.as_of}"
        amounts = {"usd_per_mtok": period.usd_per_mtok, "usd_per_mtok_output": period.usd_per_mtok_output}
        return {
            name: LiveFigure(words="not known" if usd is None else format_usd(usd, 4), note=note, path=COST)
            for name, usd in amounts.items()
        }
