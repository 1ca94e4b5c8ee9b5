"""Replies to requests on the bus: the answer, or an `ErrorReply` that says why there is none."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog

from shared.errors import BusUnavailable, Rejected
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply
from shared.printable import shortened

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)
log = structlog.get_logger()

MAX_REPLY_BYTES = 1_000_000
"""A little below what the bus carries in one message."""
MAX_REASON = 2000
"""Characters of why there is no answer: it may quote a query, which may be as long as a message."""


@dataclass(frozen=True)
class Outage:
    """Something that a service cannot answer without, such as its database, and what its clients read meanwhile."""

    errors: tuple[type[Exception], ...]
    """What it raises while it is down."""
    reason: str
    describe: Callable[[BaseException], str] = str
    """The error as the log shows it, without secrets."""


async def attempt(work: Callable[[], Awaitable[A]], *outages: Outage) -> A | ErrorReply:
    """Return what `work` returns, or the `ErrorReply` for what a client can be told of its failure.

    That is `Rejected`, `BusUnavailable` and the errors of the `outages`; others are raised. So is `Unreadable`: it is
    about data of ours, which no client can repair.
    """
    try:
        return await work()
    except Rejected as error:
        return ErrorReply(reason=shortened(str(error), MAX_REASON))
    except BusUnavailable as error:
        return ErrorReply(reason=f"the bus does not answer ({error}): try again later")
    except Exception as error:
        for outage in outages:
            if isinstance(error, outage.errors):
                log.warning("request_failed", reason=outage.describe(error))
                return ErrorReply(reason=outage.reason)
        raise


async def attempt_query(
    data: bytes, query_type: type[Q], work: Callable[[Q], Awaitable[A]], *outages: Outage
) -> A | ErrorReply:
    """Decode the query and `attempt` the work; the `ErrorReply` to an invalid query says what is wrong with it."""
    try:
        query = decode(data, query_type)
    except Unreadable as error:
        return ErrorReply(reason=str(error))
    return await attempt(lambda: work(query), *outages)


def encode_reply(answer: msgspec.Struct, *, if_too_large: str) -> bytes:
    """Encode the answer; one that no message can hold becomes an `ErrorReply`, in which `if_too_large` is the fix."""
    encoded = encode(answer)
    if len(encoded) > MAX_REPLY_BYTES:
        return encode(ErrorReply(reason=f"the answer is larger than a message: {if_too_large}"))
    return encoded


async def reply(
    data: bytes, query_type: type[Q], work: Callable[[Q], Awaitable[A]], *outages: Outage, if_too_large: str
) -> bytes:
    """Decode the query, do the `work`, and encode its answer or the `ErrorReply`."""
    answer = await attempt_query(data, query_type, work, *outages)
    return encode_reply(answer, if_too_large=if_too_large)
