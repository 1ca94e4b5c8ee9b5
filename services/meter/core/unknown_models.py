"""Models in events that the configuration does not have: their tokens were served, so they count and are reported."""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

from shared.messages.gateway import UsageEvent

What = Literal["model"]


@dataclass(frozen=True, kw_only=True)
class UnknownModel:
    """How many events name it, and when the first and the last of them completed (Unix seconds)."""

    events: int
    first_at: float
    last_at: float


def count_unknown_models(
    events: Iterable[UsageEvent], models: Container[str] | None
) -> dict[tuple[What, str], UnknownModel]:
    """Return unknown models by what they are and their name, sorted. `models`: the configured ones; None: any."""
    unknown: dict[tuple[What, str], UnknownModel] = {}
    for e in events:
        if models is not None and e.model not in models:
            at, before = e.completed_at, unknown.get(("model", e.model))
            before = before or UnknownModel(events=0, first_at=at, last_at=at)
            unknown["model", e.model] = UnknownModel(
                events=before.events + 1, first_at=min(before.first_at, at), last_at=max(before.last_at, at)
            )
    return dict(sorted(unknown.items()))
