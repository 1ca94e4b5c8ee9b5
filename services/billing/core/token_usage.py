"""A day's tokens as the meter tells them, in the terms of the books."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.messages.meter import Tokens, TokenSums, plausible

BY = ("tier", "model", "key", "outcome")
"""What the meter is asked to tell them by."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """`served` by tier, model and key: all but failed requests. `failed` is the tokens of those."""

    served: Mapping[tuple[str, str, str], TokenSums] = field(default_factory=dict)
    failed: int = 0
    complete: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def total(self) -> TokenSums:
        return total(self.served.values())

    def by_tier(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (tier, _, _), sums in self.served.items():
            found[tier] = found.get(tier, 0) + tokens_of(sums)
        return found


def usage(answer: Tokens) -> Usage:
    """Of an answer by `BY`. Its rows alone count: pages of it may have been made at different moments."""
    served: dict[tuple[str, str, str], TokenSums] = {}
    failed = 0
    for row in answer.rows:
        tier, model, key, outcome = (row.dimensions[name] for name in BY)
        if outcome == "failed":
            failed += tokens_of(row.sums)
        else:
            served[tier, model, key] = total((served.get((tier, model, key), TokenSums()), plausible(row.sums)))
    return Usage(served=dict(sorted(served.items())), failed=failed, complete=answer.complete, reasons=answer.reasons)


def tokens_of(sums: TokenSums) -> int:
    return sums.prompt_tokens + sums.completion_tokens


def total(sums: Iterable[TokenSums]) -> TokenSums:
    every = list(sums)
    return TokenSums(**{name: sum(getattr(one, name) for one in every) for name in TokenSums.__struct_fields__})
