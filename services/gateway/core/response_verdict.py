"""What a whole response of an engine says: whether it is an answer, and what it cost."""

from typing import NamedTuple

from services.gateway.core.engine_error import EngineError, read_error
from services.gateway.core.usage import (
    LARGE_BODY,
    NO_TOKENS,
    TokenCount,
    body_decoder,
    count,
    read_body_usage,
    read_usage,
)
from shared.messages.codec import Unreadable


class Verdict(NamedTuple):
    """Of a response with a status below 300. With an error nothing counts."""

    tokens: TokenCount
    error: EngineError | None


def judge(body: bytes | bytearray) -> Verdict:
    """Judge by what it says. What is no JSON object is no answer."""
    if len(body) > LARGE_BODY:
        return Verdict(count(read_body_usage(body)), None)
    try:
        fields = body_decoder.decode(body)
    except Unreadable:
        return Verdict(NO_TOKENS, EngineError(refused=False))
    error = read_error(bytes(body) if bytes(fields.object) == b'"error"' else fields.error)
    return Verdict(NO_TOKENS if error else count(read_usage(fields.usage)), error)
