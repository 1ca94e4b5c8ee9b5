"""Names in events that nobody knows here: tokens were served, so they are counted, and the names are told."""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

from shared.messages.gateway import UsageEvent

What = Literal["model", "key"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """The models of the configuration and the ids of all keys, revoked ones too; None: not known yet, all pass."""

    models: Container[str] | None = None
    keys: Container[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """How many events name it, and when the first and the last of them completed (Unix seconds)."""

    events: int
    first_at: float
    last_at: float


def unknowns_of(events: Iterable[UsageEvent], known: Known) -> dict[tuple[What, str], Unknown]:
    """By what it is and its name, sorted."""
    found: dict[tuple[What, str], Unknown] = {}
    for e in events:
        if known.models is not None and e.model not in known.models:
            _add(found, ("model", e.model), e.completed_at)
        if known.keys is not None and e.key_id not in known.keys:
            _add(found, ("key", e.key_id), e.completed_at)
    return dict(sorted(found.items()))


def _add(found: dict[tuple[What, str], Unknown], name: tuple[What, str], at: float) -> None:
    before = found.get(name, Unknown(events=0, first_at=at, last_at=at))
    found[name] = Unknown(events=before.events + 1, first_at=min(before.first_at, at), last_at=max(before.last_at, at))
