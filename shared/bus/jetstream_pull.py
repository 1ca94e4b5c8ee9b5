"""Fetches from a consumer. nats-py's own fetch makes two tasks per message, which costs more than all the rest."""

import asyncio
from typing import Any

import msgspec
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from shared.bus.jetstream_watch import unavailable

END_STATUSES = ("404", "408", "409")
"""Sent instead of a message: there is none, the time is up, the bytes are used up, or the consumer moves."""
MAX_BYTES = 8 * 1024 * 1024
"""In one fetch, unless a single message is larger. The server drops a client to which it has sent 64 MB too many."""


class StreamDelivery:
    """A `Delivery` of NATS."""

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
    """Runs one fetch at a time. Messages that arrive after their fetch has ended are returned by the next one."""

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._messages: list[Msg] = []
        self._awaited_count = 0
        self._fault: Msg | None = None
        self._ended = asyncio.Event()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Subscribe; the subscription survives reconnects of the client."""
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_message)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def fetch(self, batch: int, wait: float) -> list[Msg]:
        """Return up to `batch` waiting messages; if there are none, the first one that arrives in `wait` seconds.

        Those of one fetch have `MAX_BYTES` together. One that is larger comes alone.
        """
        deadline = asyncio.get_running_loop().time() + wait
        await self._request(batch, deadline, no_wait=True, max_bytes=MAX_BYTES)
        if not self._messages:
            await self._request(1, deadline, expires=max(1, int(wait * 1e9)))
        messages, self._messages = self._messages[:batch], self._messages[batch:]
        return messages

    async def _request(self, count: int, deadline: float, **options: Any) -> None:
        """Request messages until `count` have arrived, the server ends the request, or the time is up."""
        if len(self._messages) >= count:
            return
        self._awaited_count = count
        self._ended.clear()
        request = msgspec.json.encode({"batch": count - len(self._messages), **options})
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
            if len(self._messages) >= self._awaited_count:
                self._ended.set()
            return
        if status not in END_STATUSES:
            self._fault = message
        self._ended.set()
