"""Day reports for tests, written as briefly as the case allows. They add up as real ones do."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from services.billing.core.money import per_mtok, to_units
from shared.messages.billing import (
    CAUSES,
    AlwaysOn,
    DayReport,
    DirectionFigure,
    Directions,
    KeyFigure,
    ModelFigure,
    TierFigure,
)

WEIGHTS = {"input": 1, "cached": 1, "output": 1}


def day(number: int, month: str = "2026-05") -> str:
    """Of a month that may be left: the day 32 is the first of the next one."""
    return (date.fromisoformat(f"{month}-01") + timedelta(days=number - 1)).isoformat()


def report(at: str, spend: str | None, tokens: int = 0, **more: Any) -> DayReport:
    """Of one tier, one model `m` and one key, unless told otherwise."""
    known: dict[str, Any] = {"state": None, "reason": "cost not delivered", "causes": {}, "tiers": ()}
    if spend is not None:
        cost = Decimal(spend)
        ratio = per_mtok(to_units(cost), tokens)
        known = {
            "state": "provisional",
            "reason": None if tokens else "no tokens",
            "causes": {**dict.fromkeys(CAUSES, Decimal(0)), "serving": cost},
            "tiers": (TierFigure(tier="A", spend=cost, tokens=tokens, usd_per_mtok=ratio),),
            "models": (model("m", spend, tokens),),
            "keys": (KeyFigure(key_id="k", spend=cost, tokens=tokens, usd_per_mtok=ratio, wakes=Decimal(0)),),
            "spend_before_credits": cost,
            "usd_per_mtok": ratio,
            "always_on": AlwaysOn(spend=2 * cost, usd_per_mtok=None),
            "usage_complete": True,
        }
    directions = Directions(
        input=DirectionFigure(tokens=tokens, usd_per_mtok=None),
        cached=DirectionFigure(tokens=0, usd_per_mtok=None),
        output=DirectionFigure(tokens=0, usd_per_mtok=None),
    )
    values: dict[str, Any] = {
        "day": at,
        "revision": 1,
        "currency": "USD",
        "spend": None if spend is None else Decimal(spend),
        "tokens": tokens,
        "usd_per_mtok": None,
        "directions": directions,
        "tax": Decimal(0),
        "spend_before_credits": None,
    }
    return DayReport(**{**values, **known, **more})


def model(name: str | None, spend: str, tokens: int, before: str | None = "") -> ModelFigure:
    """`before` credits it cost the same, unless told; None: that is not known."""
    cost = Decimal(spend)
    return ModelFigure(
        model=name,
        spend=cost,
        tokens=tokens,
        usd_per_mtok=per_mtok(to_units(cost), tokens),
        spend_before_credits=None if before is None else Decimal(before or spend),
    )
