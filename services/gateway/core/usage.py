"""How many tokens a request took, from whatever the engine says about it."""

import msgspec

from shared.messages.gateway import Basis


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class EngineUsage(msgspec.Struct):
    """An engine's `usage` object; `/v1/responses` has names of its own for the same."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _PromptDetails | None = None
    output_tokens_details: _CompletionDetails | None = None


class Count(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request; prompt includes cached, completion includes reasoning."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    basis: Basis = "none"


NOTHING = Count()
"""Of a request of which nothing is known."""


def count(usage: EngineUsage) -> Count:
    """The engine's own word."""
    prompt_details = usage.prompt_tokens_details or usage.input_tokens_details
    completion_details = usage.completion_tokens_details or usage.output_tokens_details
    return Count(
        prompt=usage.prompt_tokens or usage.input_tokens or 0,
        cached=(prompt_details.cached_tokens or 0) if prompt_details else 0,
        completion=usage.completion_tokens or usage.output_tokens or 0,
        reasoning=(completion_details.reasoning_tokens or 0) if completion_details else 0,
        basis="engine",
    )


class _Answer(msgspec.Struct):
    usage: EngineUsage | None = None


_answer = msgspec.json.Decoder(_Answer)


def of_answer(body: bytes) -> Count:
    """The usage of a whole JSON answer; `none` where it has none."""
    try:
        usage = _answer.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError):
        return NOTHING
    return count(usage) if usage else NOTHING
