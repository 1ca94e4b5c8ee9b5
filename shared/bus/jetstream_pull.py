"""Fetches from a consumer. nats-py's own makes two tasks for each message, which costs more than all else about it."""

import asyncio
from typing import Any

import msgspec
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from shared.bus.jetstream_watch import unavailable

ENDS = ("404", "408", "409")
"""What the server says instead of a message: there is none, the time is up, or the consumer moves."""


class StreamDelivery:
    """A `Delivery`."""

    def __init__(self, msg: Msg) -> None:
        self._msg = msg

    @property
    def data(self) -> bytes:
        return self._msg.data

    @property
    def subject(self) -> str:
        return self._msg.subject

    @property
    def sequence(self) -> int:
        return self._msg.metadata.sequence.stream

    async def ack(self) -> None:
        async with unavailable("ack"):
            await self._msg.ack()


class Pull:
    """One fetch at a time. What comes after its fetch ended is in the next one."""

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._messages: list[Msg] = []
        self._wanted = 0
        self._fault: Msg | None = None
        self._ended = asyncio.Event()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Over the reconnects of the client too."""
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_message)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def fetch(self, batch: int, wait: float) -> list[Msg]:
        """Up to `batch` that are there; where none is, the first one that comes within `wait` seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        await self._ask(batch, deadline, no_wait=True)
        if not self._messages:
            await self._ask(1, deadline, expires=max(1, int(wait * 1e9)))
        found, self._messages = self._messages[:batch], self._messages[batch:]
        return found

    async def _ask(self, wanted: int, deadline: float, **how: Any) -> None:
        """Until so many are here, the server ends it, or the time is up."""
        if len(self._messages) >= wanted:
            return
        self._wanted = wanted
        self._ended.clear()
        request = msgspec.json.encode({"batch": wanted - len(self._messages), **how})
        await self._client.publish(self._subject, request, reply=self._inbox)
        try:
            async with asyncio.timeout_at(deadline):
                await self._ended.wait()
        except TimeoutError:
            return
        fault, self._fault = self._fault, None
        if fault is not None and not self._messages:
            nats.js.errors.APIError.from_msg(fault)

    async def _on_message(self, message: Msg) -> None:
        status = JetStreamContext.is_status_msg(message)
        if status is None:
            self._messages.append(message)
            if len(self._messages) >= self._wanted:
                self._ended.set()
            return
        if status not in ENDS:
            self._fault = message
        self._ended.set()
