"""Reads a NATS server's own health report: a server that answers may still be unable to write."""

import asyncio

import msgspec
import nats
import nats.errors

from shared.bus.jetstream_watch import unavailable
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode

SUBJECT = "$SYS.REQ.SERVER.PING.HEALTHZ"


class _Status(msgspec.Struct, frozen=True):
    status: str
    error: str = ""


class _Answer(msgspec.Struct, frozen=True):
    data: _Status


async def server_fault(url: str, *, seconds: float) -> str | None:
    """Return what is wrong with the server; None if nothing is. `url` must hold a user of its system account.

    After a failed write, a stream, a consumer or all of JetStream stays dead until the server restarts, even if the
    disk has room again. The server reports it here.

    Raises:
        BusUnavailable: no answer within `seconds`, which says nothing about its disk.
    """

    async def ignore(_error: Exception) -> None:
        """`connect` raises the failure too."""

    async with unavailable("health of the bus"), asyncio.timeout(seconds):
        client = await nats.connect(
            url, name="health", allow_reconnect=False, connect_timeout=int(seconds) or 1, error_cb=ignore
        )
        try:
            answer = await client.request(SUBJECT, b"", timeout=seconds)
        finally:
            await client.close()
    try:
        status = decode(answer.data, _Answer).data
    except Unreadable as error:
        raise BusUnavailable(f"health of the bus: {error}") from error
    return None if status.status == "ok" else status.error or status.status
