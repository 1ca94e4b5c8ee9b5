"""Whether an engine's buffered response succeeded, and how many tokens it used."""

from typing import NamedTuple

from services.gateway.core.engine_error import EngineError, read_error
from services.gateway.core.usage import (
    LARGE_BODY,
    NO_TOKENS,
    TokenCount,
    body_decoder,
    count_tokens,
    read_body_usage,
    read_usage,
)
from shared.messages.codec import Unreadable


class Verdict(NamedTuple):
    """The verdict on a response with a status below 300. If it holds an error, no tokens count."""

    tokens: TokenCount
    error: EngineError | None


def judge(body: bytes | bytearray) -> Verdict:
    """Judge a response by its body. What is not a JSON object is an error."""
    if len(body) > LARGE_BODY:
        return Verdict(count_tokens(read_body_usage(body)), None)
    try:
        fields = body_decoder.decode(body)
    except Unreadable:
        return Verdict(NO_TOKENS, EngineError(refused=False))
    error = read_error(bytes(body) if bytes(fields.object) == b'"error"' else fields.error)
    return Verdict(NO_TOKENS if error else count_tokens(read_usage(fields.usage)), error)
