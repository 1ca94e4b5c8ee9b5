"""Sums of tokens, in whole numbers."""

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokenSums, month_of
from shared.units import MINUTE_S

K = TypeVar("K", "HourKey", "MinuteKey")

MINUTES_PER_HOUR = 60


@dataclass(frozen=True, order=True)
class RollupKey:
    minute: int
    """Unix time of the completion / 60, rounded down."""
    model: str
    tier: str
    machine: str
    key_id: str
    outcome: str


def minute_rollups(events: Iterable[UsageEvent]) -> dict[RollupKey, TokenSums]:
    """Sum events per minute and dimensions, sorted, so that two writers lock the same rows in the same order."""
    sums: dict[RollupKey, TokenSums] = {}
    for e in events:
        key = RollupKey(math.floor(e.completed_at / MINUTE_S), e.model, e.tier, e.machine, e.key_id, e.outcome)
        sums[key] = add_sums(sums.get(key, TokenSums()), sums_of_event(e))
    return dict(sorted(sums.items()))


@dataclass(frozen=True, order=True)
class HourKey:
    hour: int
    """Unix time of the completion / 3600, rounded down."""
    model: str
    tier: str
    machine: str
    key_id: str
    outcome: str


@dataclass(frozen=True, order=True)
class MinuteKey:
    minute: int
    model: str
    tier: str
    outcome: str


def hour_rollups(rollups: Mapping[RollupKey, TokenSums]) -> dict[HourKey, TokenSums]:
    """Return the same sums per hour, sorted as above."""
    return _merge(
        (HourKey(k.minute // MINUTES_PER_HOUR, k.model, k.tier, k.machine, k.key_id, k.outcome), s)
        for k, s in rollups.items()
    )


def minute_totals(rollups: Mapping[RollupKey, TokenSums]) -> dict[MinuteKey, TokenSums]:
    """Return the same sums over all machines and keys, sorted as above."""
    return _merge((MinuteKey(k.minute, k.model, k.tier, k.outcome), s) for k, s in rollups.items())


def _merge(items: Iterable[tuple[K, TokenSums]]) -> dict[K, TokenSums]:
    sums: dict[K, TokenSums] = {}
    for key, more in items:
        sums[key] = add_sums(sums[key], more) if key in sums else more
    return dict(sorted(sums.items()))


@dataclass(frozen=True, order=True)
class MonthKey:
    month: str
    key_id: str


def key_month_tokens(events: Iterable[UsageEvent], counted: Container[str]) -> dict[MonthKey, int]:
    """Return the months of the events' keys, each with the tokens of the events in `counted`; sorted as above.

    A month that is entirely in the ledger already is there too, with 0: its writer may have died before publishing it.
    """
    tokens: dict[MonthKey, int] = {}
    for e in events:
        if e.outcome != "failed":
            key = MonthKey(month_of(e.completed_at), e.key_id)
            more = e.prompt_tokens + e.completion_tokens if e.id in counted else 0
            tokens[key] = tokens.get(key, 0) + more
    return dict(sorted(tokens.items()))


def add_sums(a: TokenSums, b: TokenSums) -> TokenSums:
    return TokenSums(
        requests=a.requests + b.requests,
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        cached_tokens=a.cached_tokens + b.cached_tokens,
        completion_tokens=a.completion_tokens + b.completion_tokens,
        reasoning_tokens=a.reasoning_tokens + b.reasoning_tokens,
    )


def sums_of_event(event: UsageEvent) -> TokenSums:
    return TokenSums(
        requests=1,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        completion_tokens=event.completion_tokens,
        reasoning_tokens=event.reasoning_tokens,
    )
