"""The server's clock, read over the connection, and how long ago something was stored by it."""

import time
from datetime import datetime

import msgspec
from nats.aio.client import Client

from shared.bus.jetstream_watch import unavailable
from shared.bus.topology import WAKE
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode

MAX_ROUND_TRIP_SECONDS = 1.0
"""A clock that took longer to read says too little."""


class _StreamInfo(msgspec.Struct):
    ts: datetime | None = None
    """When the server answered. Absent: it has no such stream."""


class ServerClock:
    """`skew` is how many seconds this host's clock was ahead when that was measured last; 0 before."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.skew = 0.0

    async def measure(self, timeout: float) -> float:
        """Return the skew, to half a round trip, or raise `BusUnavailable`."""
        asked_at = time.time()
        async with unavailable("clock"):
            answer = await self._client.request(f"$JS.API.STREAM.INFO.{WAKE.name}", b"", timeout=timeout)
        took = time.time() - asked_at
        try:
            now = decode(answer.data, _StreamInfo).ts
        except Unreadable as error:
            raise BusUnavailable(f"clock: {error}") from error
        if now is None or not 0.0 <= took <= MAX_ROUND_TRIP_SECONDS:
            raise BusUnavailable("the bus's clock cannot be read now")
        self.skew = asked_at + took / 2 - now.timestamp()
        return self.skew

    def age(self, stored_at: datetime | None) -> float:
        """How long ago that was, in seconds."""
        return 0.0 if stored_at is None else max(0.0, time.time() - self.skew - stored_at.timestamp())
