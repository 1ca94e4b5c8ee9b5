"""An engine's compressed answer on its way to whoever takes it inflated."""

import asyncio
from collections.abc import Callable

from services.gateway.adapters.engine_client import EngineCall
from services.gateway.core.content_coding import MAX_INFLATED, Inflater, Undecodable
from services.gateway.http.response import BufferedResponse, ResponseOwner, StreamedResponse

STEP_BYTES = 256 * 1024
"""As much as one read of an answer that is not compressed."""


class Inflating:
    """Gives on what a compressed answer holds: a whole one as it comes, a stream by one step in each turn of the loop.

    A stream's engine is read on when all has been given on, and the steps wait for the client as the engine does.
    """

    __slots__ = (
        "_call",
        "_engine_waits",
        "_feed",
        "_inflater",
        "_owner",
        "_paused",
        "_rest",
        "_step_is_due",
        "_stopped",
        "_then",
        "_whole",
    )

    def __init__(
        self,
        inflater: Inflater,
        answer: StreamedResponse | BufferedResponse,
        owner: ResponseOwner,
        call: EngineCall | None,
    ) -> None:
        self._inflater = inflater
        self._feed = answer.feed
        self._whole = isinstance(answer, BufferedResponse)
        self._owner = owner
        self._call = call
        self._rest = bytearray()
        self._paused = self._engine_waits = self._step_is_due = self._stopped = False
        self._then: Callable[[], None] | None = None

    @property
    def complete(self) -> bool:
        return self._inflater.complete

    @property
    def _behind(self) -> bool:
        return bool(self._rest) or self._inflater.behind

    def feed(self, data: bytes) -> None:
        if self._whole:
            self._give(data, MAX_INFLATED)
            return
        self._rest += data
        if self._step_is_due or self._paused:
            self._pace()
        else:
            self._step()

    def pause(self) -> None:
        """The client cannot take more now."""
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._behind:
            self._engine_waits = True
            self._step_soon()
        elif self._call is not None:
            self._engine_waits = False
            self._call.resume()

    def postpone(self, then: Callable[[], None]) -> bool:
        """Whether something is still to be given on: then `then` is called behind it."""
        if self._behind:
            self._then = then
        return self._behind

    def stop(self) -> None:
        """Nobody wants more."""
        self._stopped = True
        self._then = self._call = None

    def _step(self) -> None:
        data, self._rest = bytes(self._rest), bytearray()
        self._give(data, STEP_BYTES)
        if not self._stopped:
            self._step_soon()
            self._pace()

    def _step_soon(self) -> None:
        if not self._step_is_due:
            self._step_is_due = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._step_is_due = False
        if self._behind and not (self._paused or self._stopped):
            self._step()

    def _pace(self) -> None:
        """The engine waits as long as this is behind."""
        if self._behind:
            if not self._engine_waits and self._call is not None:
                self._engine_waits = True
                self._call.pause()
            return
        if self._engine_waits and not self._paused and self._call is not None:
            self._engine_waits = False
            self._call.resume()
        then, self._then = self._then, None
        if then is not None:
            then()

    def _give(self, data: bytes, most: int) -> None:
        try:
            inflated = self._inflater.feed(data, most)
            if self._whole and self._inflater.behind:
                raise Undecodable("it inflates to too much")
        except Undecodable as error:
            self._owner.on_unusable(str(error))
        else:
            if inflated:
                self._feed(inflated)
