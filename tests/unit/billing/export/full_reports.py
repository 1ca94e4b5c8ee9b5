"""Made-up reports that add up, as many days and parts as a test wants."""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from types import MappingProxyType

from msgspec.structs import replace

from services.billing.core.money import per_mtok, split_exactly, to_units, to_usd
from services.billing.core.reports.period_report import build_period_report
from shared.messages.billing import (
    CAUSES,
    AlwaysOn,
    DayReport,
    DirectionFigure,
    Directions,
    FigureState,
    KeyFigure,
    ModelFigure,
    PeriodReport,
    Statement,
    StatementLine,
    TierFigure,
    Variance,
)
from shared.messages.explanation import CostLine, Explanation

WEIGHTS = {"input": 10, "cached": 1, "output": 40}
EVIL = (
    '=HYPERLINK("http://127.0.0.1/","x")',
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\x1b[31mred\x1b[0m\n[bold]two[/bold] lines",
    "nul\x00 \u202egnol {{ 7 * 7 }}",
    "@SUM(A1)",
    "\t+1",
    "-k",
    "'=1",
    "\uff1d1",
)
"""Names that somebody might wish were executed."""


def day_report(
    day: str = "2026-05-03",
    spend: str = "990.123456789012",
    *,
    state: FigureState = "provisional",
    models: tuple[str | None, ...] = ("qwen3-coder", "org/name", None),
    keys: tuple[str | None, ...] = ("k1", "k2", None),
    tokens: int = 400_000_000,
    names: Mapping[str | None, str] = MappingProxyType({}),
) -> DayReport:
    """A day on which everything is known; tiers, models and keys sum as they must."""
    total = to_units(Decimal(spend))
    causes = split_exactly(total, [40, 20, 9, 1, 5, 15, 7, 3])
    of_tiers = total - causes[CAUSES.index("unattributed")]
    input_, cached = tokens * 6 // 10, tokens // 10
    output = tokens - input_ - cached

    def parts(count: int) -> list[tuple[Decimal, int, Decimal | None]]:
        spends = split_exactly(of_tiers, range(count, 0, -1))
        counts = split_exactly(tokens, [*range(count - 1, 0, -1), 0] if count > 1 else [1])
        return [(to_usd(s), t, per_mtok(s, t)) for s, t in zip(spends, counts, strict=True)]

    return DayReport(
        day=day,
        state=state,
        revision=3,
        currency="USD",
        spend=to_usd(total),
        tokens=tokens,
        usd_per_mtok=per_mtok(total, tokens),
        reason=None,
        causes={cause: to_usd(part) for cause, part in zip(CAUSES, causes, strict=True)},
        tiers=tuple(
            TierFigure(tier=name, spend=s, tokens=t, usd_per_mtok=r)
            for name, (s, t, r) in zip(("h100x2", "l4x2"), parts(2), strict=True)
        ),
        directions=Directions(
            input=DirectionFigure(tokens=input_, usd_per_mtok=Decimal("1.25")),
            cached=DirectionFigure(tokens=cached, usd_per_mtok=Decimal("0.125")),
            output=DirectionFigure(tokens=output, usd_per_mtok=Decimal(5)),
        ),
        tax=Decimal("190.5"),
        spend_before_credits=to_usd(total + to_units(Decimal("66.000000000001"))),
        sources=(f"focus-{day[:7]}.csv from cloud, SHA-256 {'ab' * 32}",),
        change="late usage",
        usage_complete=True,
        tokens_failed=1200,
        billed_share=Decimal("0.75"),
        effective_spend=to_usd(total - 5),
        usd_per_mtok_before_credits=Decimal("2.64"),
        usd_per_mtok_output=per_mtok(total, output),
        models=tuple(
            ModelFigure(model=name, spend=s, tokens=t, usd_per_mtok=r)
            for name, (s, t, r) in zip(models, parts(len(models)), strict=True)
        ),
        keys=tuple(
            KeyFigure(key_id=name, spend=s, tokens=t, usd_per_mtok=r, wakes=Decimal("0.5"), name=names.get(name))
            for name, (s, t, r) in zip(keys, parts(len(keys)), strict=True)
        ),
        shared_by="direct cost",
        charges=12,
        always_on=AlwaysOn(spend=Decimal(5760), usd_per_mtok=Decimal("14.4")),
        variance=Variance(accrued=Decimal("115.2"), billed=Decimal("104.64"), difference=Decimal("-10.56")),
    )


def unknown(day: str = "2026-05-04") -> DayReport:
    """A day with tokens, without its cost."""
    nothing = DirectionFigure(tokens=0, usd_per_mtok=None)
    return DayReport(
        day=day,
        state=None,
        revision=1,
        currency="USD",
        spend=None,
        tokens=7,
        usd_per_mtok=None,
        reason="cost not delivered",
        causes={},
        tiers=(),
        directions=Directions(input=DirectionFigure(tokens=7, usd_per_mtok=None), cached=nothing, output=nothing),
        tax=Decimal(0),
        spend_before_credits=None,
        usage_reasons=("the day is not over",),
        always_on=AlwaysOn(spend=None, usd_per_mtok=None, reason="no tier has a price_per_hour"),
    )


def lacking(day: str = "2026-05-04", known: str = "0.75") -> DayReport:
    """A day on which one machine's bill is missing."""
    made = day_report(day, known)
    reason = "no bill yet: h100-1"
    unbilled = replace(made.tiers[0], spend=None, usd_per_mtok=None, reason=reason, spend_known=made.tiers[0].spend)
    return replace(
        made,
        state="estimated",
        spend=None,
        spend_known=made.spend,
        usd_per_mtok=None,
        reason=reason,
        tiers=(unbilled, *made.tiers[1:]),
        models=(),
        keys=(),
        always_on=AlwaysOn(spend=None, usd_per_mtok=None, reason="no price_per_hour: h100x2"),
    )


def evil_day() -> DayReport:
    """Every text that comes from outside is hostile."""
    made = day_report(models=EVIL, keys=EVIL, names=dict(zip(EVIL, reversed(EVIL), strict=True)))
    tiers = tuple(replace(tier, tier=name) for tier, name in zip(made.tiers, EVIL, strict=False))
    return replace(explained(made, EVIL), tiers=tiers, sources=EVIL, change=EVIL[1], usage_reasons=EVIL)


def explained(report: DayReport, names: tuple[str, ...] = ("disk-1", "nat-1")) -> DayReport:
    """With what its unattributed cost is made of: a line for each name, and a rest."""
    amount = report.causes["unattributed"]
    parts = split_exactly(to_units(amount), range(len(names) + 1, 0, -1))
    lines = tuple(
        CostLine(
            what="charges",
            amount=to_usd(part),
            resource=name,
            service=name,
            category=name,
            tag=name,
            source=name,
            file=name,
            charges=1234,
        )
        for part, name in zip(parts, names, strict=False)
    )
    one = Explanation(
        figure="unattributed", is_tier=False, amount=amount, lines=lines, more=1234, rest=to_usd(parts[-1])
    )
    estimate = CostLine(what="estimate", amount=Decimal(3), resource=names[0])
    tier = Explanation(figure=report.tiers[0].tier, is_tier=True, amount=Decimal(3), lines=(estimate,))
    return replace(report, explanations=(one, tier))


def period_report(
    days: int, last: str = "2026-05-31", *, keys: tuple[str | None, ...] = ("k1", "k2", None)
) -> PeriodReport:
    """Days of every state and of growing cost up to `last`."""
    states: tuple[FigureState, ...] = ("final", "final", "restated", "provisional", "estimated")
    end = date.fromisoformat(last)
    made = [
        day_report(
            (end - timedelta(days=days - 1 - number)).isoformat(),
            f"{500 + number * 11}.{number:012}",
            state=states[number * len(states) // days],
            keys=keys,
        )
        for number in range(days)
    ]
    return build_period_report(made, WEIGHTS)


def statement(*, key_id: str = "k1", model: str = "qwen3-coder", name: str | None = None) -> Statement:
    lines = (
        StatementLine(
            day="2026-05-03",
            model=model,
            prompt_tokens=1_800_000,
            cached_tokens=100_000,
            completion_tokens=600_000,
            usd_per_mtok=Decimal("2.5"),
            amount=Decimal(6),
        ),
        StatementLine(
            day="2026-05-04",
            model=model,
            prompt_tokens=1,
            cached_tokens=0,
            completion_tokens=1,
            usd_per_mtok=Decimal("2.75"),
            amount=Decimal("0.0000055"),
        ),
    )
    return Statement(
        key_id=key_id,
        name=name,
        month="2026-05",
        complete=True,
        tokens=2_400_002,
        amount=Decimal("6.0000055"),
        lines=lines,
    )
