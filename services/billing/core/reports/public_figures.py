"""The public form of reports and bands: built from named fields, so that nothing else of a report is in it."""

from datetime import date
from decimal import Decimal
from typing import Any, get_args

from services.billing.core.allocation.shared_cost import SharedBy
from services.billing.core.reports.figures import NO_TOKENS
from shared.messages.billing import (
    CAUSES,
    AlwaysOn,
    Band,
    DayReport,
    DirectionFigure,
    Directions,
    PeriodReport,
    ReportFigures,
)
from shared.messages.public import (
    BandReason,
    PublicAlwaysOn,
    PublicBand,
    PublicDay,
    PublicDirection,
    PublicDirections,
    PublicFigures,
    PublicModel,
    PublicPeriod,
    PublicReason,
    PublicTier,
)


def public_day(report: DayReport) -> PublicDay:
    """Return what everybody may know of a day."""
    return PublicDay(
        **_fields(_figures(report, _reason(report, failed=report.failed))),
        day=report.day,
        revision=report.revision,
        usage_complete=report.usage_complete,
        charges=report.charges,
        billed_share=report.billed_share,
        shared_by=report.shared_by if report.shared_by in get_args(SharedBy) else None,
    )


def public_period(report: PeriodReport) -> PublicPeriod:
    """Return what everybody may know of several days."""
    return PublicPeriod(
        **_fields(_figures(report, _reason(report, failed=any(day.failed for day in report.days)))),
        first=report.first,
        to=report.to,
        complete_through=report.complete_through,
        days=tuple(map(public_day, report.days)),
    )


def public_band(band: Band) -> PublicBand:
    """Return a price band; the days that did not count without why."""
    return PublicBand(
        model=band.model,
        day=band.day,
        low=band.low,
        high=band.high,
        trailing_7=band.trailing_7,
        trailing_28=band.trailing_28,
        reason=_band_reason(band),
        left_out=tuple(day for text in band.left_out if _is_day(day := text.partition(":")[0])),
    )


def _figures(report: ReportFigures, reason: PublicReason | None) -> PublicFigures:
    return PublicFigures(
        state=report.state,
        spend=report.spend,
        spend_known=report.spend_known,
        tokens=report.tokens,
        tokens_failed=report.tokens_failed,
        usd_per_mtok=report.usd_per_mtok,
        usd_per_mtok_output=report.usd_per_mtok_output,
        reason=reason,
        causes={cause: report.causes[cause] for cause in CAUSES if cause in report.causes},
        tiers=tuple(
            PublicTier(
                tier=tier.tier,
                spend=tier.spend,
                spend_known=tier.spend_known,
                tokens=tier.tokens,
                usd_per_mtok=_attributed(tier.usd_per_mtok, tier.spend),
            )
            for tier in report.tiers
        ),
        models=tuple(
            PublicModel(
                model=model.model,
                spend=model.spend,
                tokens=model.tokens,
                usd_per_mtok=_attributed(model.usd_per_mtok, model.spend),
            )
            for model in report.models
        ),
        directions=_directions(report.directions),
        always_on=_always_on(report.always_on),
        tax=report.tax,
        spend_before_credits=report.spend_before_credits,
    )


def _attributed(usd_per_mtok: Decimal | None, spend: Decimal | None) -> Decimal | None:
    """Return a part's cost per token; None where no cost was found for it.

    The charges of a tier that is configured no more are unattributed: its tokens were not free.
    """
    return usd_per_mtok if spend else None


def _fields(figures: PublicFigures) -> dict[str, Any]:
    return {name: getattr(figures, name) for name in PublicFigures.__struct_fields__}


def _reason(report: ReportFigures, *, failed: bool) -> PublicReason | None:
    if report.usd_per_mtok is not None:
        return None
    if failed:
        return "failed"
    if report.spend is None:
        return "no_bill" if report.state is None else "bill_missing"
    return "no_tokens"


def _directions(directions: Directions | None) -> PublicDirections | None:
    if directions is None:
        return None
    return PublicDirections(
        input=_direction(directions.input), cached=_direction(directions.cached), output=_direction(directions.output)
    )


def _direction(figure: DirectionFigure) -> PublicDirection:
    return PublicDirection(tokens=figure.tokens, usd_per_mtok=figure.usd_per_mtok)


def _always_on(always_on: AlwaysOn | None) -> PublicAlwaysOn | None:
    if always_on is None:
        return None
    reason: PublicReason | None = None
    if always_on.spend is None or always_on.usd_per_mtok is None:
        reason = "no_tokens" if always_on.reason == NO_TOKENS else "no_price"
    return PublicAlwaysOn(spend=always_on.spend, usd_per_mtok=always_on.usd_per_mtok, reason=reason)


def _band_reason(band: Band) -> BandReason | None:
    if band.high is not None:
        return None
    if band.trailing_7 is None and band.trailing_28 is None and not band.reason:
        return "not_made"
    starts: tuple[tuple[str, BandReason], ...] = (
        ("fewer than", "few_tokens"),
        ("it cost nothing", "no_cost"),
        ("above", "above_ladder"),
    )
    return next((reason for start, reason in starts if (band.reason or "").startswith(start)), "not_made")


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
