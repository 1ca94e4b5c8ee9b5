"""What a whole response of an engine says: whether it is an answer, and what it cost."""

from typing import NamedTuple

from services.gateway.core.engine_error import EngineError, read_error
from services.gateway.core.usage import LARGE_BODY, NOTHING, Count, body_decoder, count, read_usage, usage_of
from shared.messages.codec import Unreadable


class Verdict(NamedTuple):
    """Of a response with a status below 300. With an error nothing counts."""

    tokens: Count
    error: EngineError | None


def judge(body: bytes | bytearray) -> Verdict:
    """Judge by what it says. What is no JSON object is no answer."""
    if len(body) > LARGE_BODY:
        return Verdict(count(usage_of(body)), None)
    try:
        said = body_decoder.decode(body)
    except Unreadable:
        return Verdict(NOTHING, EngineError(refused=False))
    error = read_error(bytes(body) if bytes(said.object) == b'"error"' else said.error)
    return Verdict(NOTHING if error else count(read_usage(said.usage)), error)
