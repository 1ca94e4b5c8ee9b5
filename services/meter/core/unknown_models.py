"""Models in events that the configuration does not name: their tokens were served, so they count, and are told."""

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
    """By what it is and its name, sorted. `models`: those of the configuration; None: all pass."""
    found: dict[tuple[What, str], UnknownModel] = {}
    for e in events:
        if models is not None and e.model not in models:
            at, before = e.completed_at, found.get(("model", e.model))
            before = before or UnknownModel(events=0, first_at=at, last_at=at)
            found["model", e.model] = UnknownModel(
                events=before.events + 1, first_at=min(before.first_at, at), last_at=max(before.last_at, at)
            )
    return dict(sorted(found.items()))
