"""Reads the server's clock over the connection, and computes ages by it."""

import time
from datetime import datetime

import msgspec
from nats.aio.client import Client

from shared.bus.jetstream_watch import unavailable
from shared.bus.topology import WAKE
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode

MAX_ROUND_TRIP_SECONDS = 1.0
"""A reading that took longer is too imprecise."""


class _StreamInfo(msgspec.Struct):
    ts: datetime | None = None
    """When the server answered. Absent if it has no such stream."""


class ServerClock:
    """`skew` is how many seconds this host's clock was ahead at the last measurement; 0 before the first."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.skew = 0.0

    async def measure(self, timeout: float) -> float:
        """Measure the skew, to half a round trip. Raises `BusUnavailable`."""
        sent_at = time.time()
        async with unavailable("clock"):
            answer = await self._client.request(f"$JS.API.STREAM.INFO.{WAKE.name}", b"", timeout=timeout)
        took = time.time() - sent_at
        try:
            now = decode(answer.data, _StreamInfo).ts
        except Unreadable as error:
            raise BusUnavailable(f"clock: {error}") from error
        if now is None or not 0.0 <= took <= MAX_ROUND_TRIP_SECONDS:
            raise BusUnavailable("the clock of the bus cannot be read now")
        self.skew = sent_at + took / 2 - now.timestamp()
        return self.skew

    def age(self, stored_at: datetime | None) -> float:
        """Return how long ago that was, in seconds."""
        return 0.0 if stored_at is None else max(0.0, time.time() - self.skew - stored_at.timestamp())
