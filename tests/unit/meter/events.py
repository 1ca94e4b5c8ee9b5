"""Usage events for tests: every field has a default."""

from collections.abc import Sequence
from typing import Any

from shared.messages.gateway import UsageEvent
from shared.messages.meter import TokenSums

MIDNIGHT = 1_795_392_000.0
"""2026-11-23T00:00:00Z."""


def event(source: str = "gw-1", source_seq: int = 1, **fields: Any) -> UsageEvent:
    known: dict[str, Any] = {
        "id": f"{source}/{source_seq}",
        "completed_at": MIDNIGHT + 60.0 * source_seq,
        "key_id": "k1",
        "model": "qwen",
        "tier": "l4x2",
        "machine": "l4x2-1",
        "generation": 1,
        "prompt_tokens": 10,
        "cached_tokens": min(4, fields.get("prompt_tokens", 10)),
        "completion_tokens": 7,
        "reasoning_tokens": min(2, fields.get("completion_tokens", 7)),
        "basis": "engine",
        "outcome": "completed",
        "status": 200,
        "streamed": True,
        "wake_wait": 0.0,
        "wake_id": None,
        "first_token": 0.1,
        "duration": 1.0,
        "overhead": 0.001,
        "operation": "chat",
    }
    return UsageEvent(source=source, source_seq=source_seq, **{**known, **fields})


def sums_of(events: Sequence[UsageEvent]) -> TokenSums:
    return TokenSums(
        requests=len(events),
        prompt_tokens=sum(e.prompt_tokens for e in events),
        cached_tokens=sum(e.cached_tokens for e in events),
        completion_tokens=sum(e.completion_tokens for e in events),
        reasoning_tokens=sum(e.reasoning_tokens for e in events),
    )
