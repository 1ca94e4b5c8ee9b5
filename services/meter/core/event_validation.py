"""Which usage events are valid: the bounds of their fields, and implausible token counts, which become 0."""

from collections.abc import Iterator

import msgspec

from shared.messages.gateway import UsageEvent

NAME_BYTES = 400
"""Longest name in UTF-8: five of them are one key of the rollups, and PostgreSQL's index takes 2700 bytes."""
COUNT_LIMIT = 2**40
"""Tokens in one event: far above any context, far below where a day's sum would overflow 64 bits."""
SEQ_LIMIT = 2**62
TIME_LIMIT = 2**33
"""Unix seconds, in the year 2242."""
_NAMES = ("id", "source", "key_id", "model", "tier", "machine", "wake_id", "moved_from", "operation")
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_COUNTS = ("generation", "status", "choices", "max_tokens", "body_bytes")
_SECONDS = ("completed_at", "wake_wait", "first_token", "duration", "overhead")


def event_errors(event: UsageEvent) -> Iterator[str]:
    """Yield why an event cannot be counted, field by field."""
    for name in _NAMES:
        value = getattr(event, name)
        if value is not None:
            yield from _name_errors(name, value)
    if not 1 <= event.source_seq < SEQ_LIMIT:
        yield f"source_seq: expected 1 or more, got {event.source_seq}"
    for name in _COUNTS:
        value = getattr(event, name)
        if not 0 <= value < COUNT_LIMIT:
            yield f"{name}: expected 0 to 2^40, got {value}"
    for name in _SECONDS:
        value = getattr(event, name)
        if value is not None and not 0 <= value < TIME_LIMIT:
            yield f"{name}: expected 0 to 2^33 seconds, got {value}"


def is_name(text: str) -> bool:
    """Whether this is valid as the name of a source or a key."""
    return not any(_name_errors("id", text))


def _name_errors(name: str, value: str) -> Iterator[str]:
    if not value and name not in ("wake_id", "operation"):
        yield f"{name}: expected a name, got an empty string"
    if "\0" in value:
        yield f"{name}: expected a name without a NUL"
    if len(value.encode()) > NAME_BYTES:
        yield f"{name}: expected at most {NAME_BYTES} bytes"


def clamp_token_counts(event: UsageEvent) -> UsageEvent:
    """Return the event with its plausible token counts; an implausible one becomes 0, as if it was not reported.

    These numbers come from engines. None of them may keep an event from being counted, or make a sum negative.
    """
    prompt, cached, completion, reasoning = (_count(getattr(event, name)) for name in _TOKENS)
    cached, reasoning = min(cached, prompt), min(reasoning, completion)
    counts = (prompt, cached, completion, reasoning)
    if counts == tuple(getattr(event, name) for name in _TOKENS):
        return event
    return msgspec.structs.replace(event, **dict(zip(_TOKENS, counts, strict=True)))


def _count(tokens: int) -> int:
    return tokens if 0 <= tokens < COUNT_LIMIT else 0


def is_same_event(event: UsageEvent, stored: UsageEvent) -> bool:
    """Whether a repeated event equals the stored one, which an older meter may have stored without its bounds."""
    if not stored.max_tokens and not stored.body_bytes:
        event = msgspec.structs.replace(event, max_tokens=0, body_bytes=0)
    if not stored.operation:
        event = msgspec.structs.replace(event, operation="")
    return event == clamp_token_counts(stored)
