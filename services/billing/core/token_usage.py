"""A day's tokens as the meter tells them, in the terms of the books."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.messages.meter import Tokens, TokenSums, plausible

DIMENSIONS = ("tier", "model", "key", "outcome")
"""What the meter is asked to tell them by."""


@dataclass(frozen=True, kw_only=True)
class TokenUsage:
    """`served` by tier, model and key: all but failed requests. `failed` is the tokens of those."""

    served: Mapping[tuple[str, str, str], TokenSums] = field(default_factory=dict)
    failed: int = 0
    complete: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def total(self) -> TokenSums:
        return sum_tokens(self.served.values())

    def by_tier(self) -> dict[str, int]:
        tokens: dict[str, int] = {}
        for (tier, _, _), sums in self.served.items():
            tokens[tier] = tokens.get(tier, 0) + total_tokens(sums)
        return tokens


def token_usage(answer: Tokens) -> TokenUsage:
    """Add up an answer by `BY`. Only its rows count: its pages may have been made at different moments."""
    served: dict[tuple[str, str, str], TokenSums] = {}
    failed = 0
    for row in answer.rows:
        tier, model, key, outcome = (row.dimensions[name] for name in DIMENSIONS)
        if outcome == "failed":
            failed += total_tokens(row.sums)
        else:
            served[tier, model, key] = sum_tokens((served.get((tier, model, key), TokenSums()), plausible(row.sums)))
    return TokenUsage(
        served=dict(sorted(served.items())), failed=failed, complete=answer.complete, reasons=answer.reasons
    )


def total_tokens(sums: TokenSums) -> int:
    return sums.prompt_tokens + sums.completion_tokens


def sum_tokens(sums: Iterable[TokenSums]) -> TokenSums:
    every = list(sums)
    return TokenSums(**{name: sum(getattr(one, name) for one in every) for name in TokenSums.__struct_fields__})
