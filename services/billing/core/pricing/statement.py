"""A key's month: its tokens of each day and model at the upper end of the band in force on that day."""

import calendar
import re
from collections.abc import Callable, Mapping

from services.billing.core.money import MTOK, divide, to_units, to_usd
from services.billing.core.token_usage import total_tokens
from shared.messages.billing import Band, Statement, StatementLine
from shared.messages.meter import Tokens, TokenSums

NO_BAND = "no band was in force"

BandOf = Callable[[str, str], Band | None]
"""Returns the band of a model on a day."""


def month_days(month: str) -> tuple[str, str]:
    """The first and the last day of `YYYY-MM`; `ValueError` where that is no month."""
    match = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", month, re.ASCII)
    if match is None or match[1] == "0000":
        raise ValueError(f'expected a month such as "2026-05", got {month!r}')
    return f"{month}-01", f"{month}-{calendar.monthrange(int(match[1]), int(match[2]))[1]}"


def build_statement(key_id: str, month: str, tokens: Tokens, band_of: BandOf) -> Statement:
    """`tokens` are the key's own, by day, model and outcome. Failed requests are not charged."""
    lines = [
        _line(day, model, sums, band_of(model, day))
        for (day, model), sums in _charged_tokens(tokens).items()
        if total_tokens(sums)
    ]
    amounts = [line.amount for line in lines]
    unpriced = sum(amount is None for amount in amounts)
    reasons = list(tokens.reasons)
    if unpriced:
        reasons.append(f"{unpriced} of {len(lines)} lines have no price")
    return Statement(
        key_id=key_id,
        month=month,
        complete=tokens.complete,
        tokens=sum(line.prompt_tokens + line.completion_tokens for line in lines),
        amount=None if unpriced else to_usd(sum(to_units(amount) for amount in amounts if amount is not None)),
        lines=tuple(lines),
        reasons=tuple(reasons),
    )


def _charged_tokens(tokens: Tokens) -> Mapping[tuple[str, str], TokenSums]:
    """Return the charged tokens by day and model, sorted."""
    sums: dict[tuple[str, str], TokenSums] = {}
    for row in tokens.rows:
        if row.dimensions["outcome"] == "failed":
            continue
        at = (row.dimensions["day"], row.dimensions["model"])
        so_far = sums.get(at, TokenSums())
        sums[at] = TokenSums(
            **{name: getattr(so_far, name) + getattr(row.sums, name) for name in TokenSums.__struct_fields__}
        )
    return dict(sorted(sums.items()))


def _line(day: str, model: str, sums: TokenSums, band: Band | None) -> StatementLine:
    price = None if band is None else band.high
    return StatementLine(
        day=day,
        model=model,
        prompt_tokens=sums.prompt_tokens,
        cached_tokens=sums.cached_tokens,
        completion_tokens=sums.completion_tokens,
        usd_per_mtok=price,
        amount=None if price is None else to_usd(divide(total_tokens(sums) * to_units(price), MTOK)),  # halves to even
        reason=None if price is not None else NO_BAND if band is None or band.reason is None else band.reason,
    )
