"""Which figures of a day's report moved between two revisions, in words."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

from shared.messages.billing import DayReport
from shared.printable import printable

MAX_LISTED = 3
"""Parts, causes and invoices that are listed by name; the others are counted: two lines of a terminal hold it."""
MAX_NAME_LENGTH = 80
"""Characters of a file's, invoice's or source's name: they come from outside."""

Amounts = Mapping[str, Decimal | None]
"""Parts of a report by name."""


def changed_parts(before: DayReport, after: DayReport) -> list[str]:
    """The largest moves within figures that are the same as a whole: of the first kind of part that has any."""
    kinds = (_by_cause, _by_tier, _before_credits, _by_model, _by_key, _always_on)
    for was, now in ((amounts_of(before), amounts_of(after)) for amounts_of in kinds):
        moves = [(name, was.get(name), now.get(name)) for name in {**was, **now} if was.get(name) != now.get(name)]
        if moves:
            moves.sort(key=lambda move: (-abs((move[2] or Decimal(0)) - (move[1] or Decimal(0))), move[0]))
            more = [f"{len(moves) - MAX_LISTED} more parts"] if len(moves) > MAX_LISTED else []
            return [f"{shorten_name(name)} {format_change(a, b)}" for name, a, b in moves[:MAX_LISTED]] + more
    return [*_changed_counts(before, after)]


def _changed_counts(before: DayReport, after: DayReport) -> Iterator[str]:
    counts = {
        "input tokens": (before.directions.input.tokens, after.directions.input.tokens),
        "cached tokens": (before.directions.cached.tokens, after.directions.cached.tokens),
        "output tokens": (before.directions.output.tokens, after.directions.output.tokens),
        "tokens of failed requests": (before.tokens_failed, after.tokens_failed),
        "charges": (before.charges, after.charges),
    }
    for name, (was, now) in counts.items():
        if was != now:
            yield f"{name} {was:,} → {now:,} ({now - was:+,})"
    if before.directions != after.directions and before.spend == after.spend:
        yield "price by direction"


def _by_cause(report: DayReport) -> Amounts:
    return {name.replace("_", " "): amount for name, amount in report.causes.items()}


def _by_tier(report: DayReport) -> Amounts:
    return {f"tier {figure.tier}": figure.spend for figure in report.tiers}


def _before_credits(report: DayReport) -> Amounts:
    return {"spend before credits": report.spend_before_credits, "effective spend": report.effective_spend}


def _by_model(report: DayReport) -> Amounts:
    return {f"model {figure.model or 'nobody'}": figure.spend for figure in report.models}


def _by_key(report: DayReport) -> Amounts:
    return {f"key {figure.key_id or 'nobody'}": figure.spend for figure in report.keys}


def _always_on(report: DayReport) -> Amounts:
    return {} if report.always_on is None else {"always-on comparison": report.always_on.spend}


def format_change(
    before: Decimal | None,
    after: Decimal | None,
    known_before: Decimal | None = None,
    known_after: Decimal | None = None,
) -> str:
    """Say what an amount was and is, and what is known of one that is None."""
    if before is None or after is None:
        return f"{_format_usd(before, known_before)} → {_format_usd(after, known_after)}"
    places = _places(after - before)
    return f"{before:,.{places}f} → {after:,.{places}f} USD ({format_signed(after - before)})"


def _format_usd(amount: Decimal | None, known: Decimal | None) -> str:
    if amount is None:
        return "unknown" if known is None else f"unknown but for {_format_usd(known, None)}"
    return f"{amount:,.{_places(amount)}f} USD"


def format_signed(amount: Decimal) -> str:
    return f"{amount:+,.{_places(amount)}f}"


def _places(amount: Decimal) -> int:
    """Cents, or as many decimals as a smaller amount needs to be seen."""
    return 2 if not amount or abs(amount) >= Decimal("0.01") else min(12, -amount.adjusted())


def shorten_name(text: str) -> str:
    """Return a name from outside in one line and bounded."""
    name = printable(text)
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1] + "…"
