"""Requests to services on the bus, and what their answers are."""

import asyncio
import time
from typing import TypeVar

import msgspec

from shared.bus.ports import Bus
from shared.bus.topology import LEASE_SECONDS
from shared.errors import BusUnavailable, Rejected
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply

A = TypeVar("A", bound=msgspec.Struct)

PATIENCE_S = LEASE_SECONDS + 1.0
"""A leader that has just died is replaced within this time."""
PAUSE_S = 0.25


class _Tagged(msgspec.Struct, frozen=True):
    """The tag of any message."""

    tag: str | None = msgspec.field(default=None, name="type")


async def request_reply(
    bus: Bus,
    subject: str,
    query: msgspec.Struct,
    reply_type: type[A],
    *,
    timeout: float = 30.0,
    patience_s: float = PATIENCE_S,
) -> A:
    """Send a query to a service and return its reply.

    A query that no service takes is repeated for `patience_s`: if a leader has just died, the next one answers. One
    that was with a service when it died waits for `timeout`, and is repeated only if that is shorter.

    Raises:
        Rejected: the service rejected the query, or its reply cannot be decoded.
        BusUnavailable: no service answered.
    """
    data = await _request(bus, subject, encode(query), timeout, patience_s)
    try:
        if decode(data, _Tagged).tag == "refused.v1":
            raise Rejected(decode(data, ErrorReply).reason)
        return decode(data, reply_type)
    except Unreadable as error:
        raise Rejected(f"cannot decode the reply on {subject} ({error}): run the same version of both") from error


async def _request(bus: Bus, subject: str, query: bytes, timeout: float, patience_s: float) -> bytes:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return await bus.request(subject, query, timeout=timeout)
        except BusUnavailable as error:
            if time.monotonic() > deadline:
                raise BusUnavailable(f"{error}: is the service running? `spotinference up` starts it") from error
            await asyncio.sleep(PAUSE_S)
