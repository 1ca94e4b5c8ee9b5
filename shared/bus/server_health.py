"""What a NATS server says of itself: one that answers may still be unable to write."""

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
    """What is wrong with the server, None: nothing. `url` has a user of its system account.

    A stream, a consumer or the whole of JetStream that once failed to write is dead until the server is started again,
    also when the disk has room; the server names it here.

    Raises:
        BusUnavailable: no answer within `seconds`, which tells nothing about its disk.
    """

    async def ignore(_error: Exception) -> None:
        """The failure comes back from `connect`."""

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
