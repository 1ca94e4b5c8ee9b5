"""What every answer about money has in common: the figures, or one sentence why there are none."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog

from shared.database import DATABASE_ERRORS, describe
from shared.errors import Rejected
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)
log = structlog.get_logger()

ANSWER_BYTES = 1_000_000
"""A little below what the bus carries in one message."""


async def answered(data: bytes, kind: type[Q], work: Callable[[Q], Awaitable[A]]) -> A | ErrorReply:
    """`work`'s answer to the question; a `Rejected` of its own says why there is none."""
    try:
        return await work(decode(data, kind))
    except (Unreadable, Rejected) as error:
        return ErrorReply(reason=str(error))
    except DATABASE_ERRORS as error:
        log.warning("the books cannot be used", reason=describe(error))
        return ErrorReply(reason="the books' database does not answer: ask again later")


def bounded(answer: msgspec.Struct, fix: str) -> bytes:
    """As it goes over the bus; too large for it, a refusal that says what to do."""
    encoded = encode(answer)
    if len(encoded) > ANSWER_BYTES:
        return encode(ErrorReply(reason=f"the answer is larger than a message: {fix}"))
    return encoded
