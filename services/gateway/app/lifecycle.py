"""The running exchanges, and how they end when the gateway shuts down."""

import asyncio

from services.gateway.core import errors
from services.gateway.ports import RunningExchange


class Lifecycle:
    """Tracks all running exchanges. Each is in `exchanges` from its beginning to its end."""

    def __init__(self) -> None:
        self.is_leaving = False
        """The gateway is not ready, and every response closes its connection."""
        self.is_closed = False
        """New requests are rejected."""
        self.exchanges: set[RunningExchange] = set()
        self._ended = asyncio.Event()

    def end(self, exchange: RunningExchange) -> None:
        self.exchanges.discard(exchange)
        if self.is_closed:
            self._ended.set()

    async def drain(self, grace: float, *, keep_held: bool = True) -> None:
        """Reject new requests; give those under way `grace` seconds, then end them with an error.

        Requests that wait for a machine are among them: theirs may become ready. Without `keep_held` they are ended
        at once, since none will.
        """
        self.is_leaving = self.is_closed = True
        if not keep_held:
            for exchange in list(self.exchanges):
                if not exchange.is_forwarded:
                    exchange.interrupt(errors.leaving())
        try:
            async with asyncio.timeout(grace):
                await self._all_ended()
        except TimeoutError:
            for exchange in list(self.exchanges):
                exchange.interrupt(errors.leaving())
            await self._all_ended()

    async def _all_ended(self) -> None:
        while self.exchanges:
            self._ended.clear()
            await self._ended.wait()
