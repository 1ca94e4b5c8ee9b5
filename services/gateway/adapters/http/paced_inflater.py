"""An engine's compressed answer on its way to whoever takes it inflated."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.adapters.engine_client import EngineCall
from services.gateway.adapters.http.response import BufferedResponse, ResponseOwner, StreamedResponse
from services.gateway.core.content_coding import MAX_INFLATED, Inflater, Undecodable

STEP_BYTES = 256 * 1024
"""As much as one read of an answer that is not compressed."""


@dataclass(slots=True, eq=False)
class PacedInflater:
    """Gives on what a compressed answer holds: a whole one as it comes, a stream by one step in each iteration.

    The engine is read on once all has been given on, and the steps wait for the client as the engine does.
    """

    _inflater: Inflater
    _answer: StreamedResponse | BufferedResponse
    _owner: ResponseOwner
    _call: EngineCall | None
    """None once nobody wants more."""
    _rest: bytes = b""
    """Not inflated yet."""
    _paused: bool = False
    _engine_waits: bool = False
    _step_is_due: bool = False
    _then: Callable[[], None] | None = None

    @property
    def complete(self) -> bool:
        return self._inflater.complete

    @property
    def _behind(self) -> bool:
        return bool(self._rest) or self._inflater.behind

    def feed(self, data: bytes) -> None:
        self._rest += data
        if isinstance(self._answer, BufferedResponse):
            self._give(MAX_INFLATED)
            if self._inflater.behind and self._call is not None:
                self.stop()
                self._owner.on_unusable("it inflates to too much")
        elif not (self._step_is_due or self._paused):
            self._step()
        self._pace()

    def pause(self) -> None:
        """The client cannot take more now."""
        self._paused = True
        self._pace()

    def resume(self) -> None:
        self._paused = False
        self._step_soon()
        self._pace()

    def postpone(self, then: Callable[[], None]) -> bool:
        """Whether something is still to be given on: then `then` is called behind it."""
        if self._behind:
            self._then = then
        return self._behind

    def stop(self) -> None:
        """Nobody wants more."""
        self._then = self._call = None

    def _step(self) -> None:
        """One now, and the next in the next iteration of the loop."""
        self._step_is_due = False
        if self._call is not None and self._behind and not self._paused:
            self._give(STEP_BYTES)
            self._step_soon()
            self._pace()

    def _step_soon(self) -> None:
        if not self._step_is_due:
            self._step_is_due = True
            asyncio.get_running_loop().call_soon(self._step)

    def _give(self, most: int) -> None:
        data, self._rest = self._rest, b""
        try:
            inflated = self._inflater.feed(data, most)
        except Undecodable as error:
            self.stop()
            self._owner.on_unusable(str(error))
        else:
            if inflated:
                self._answer.feed(inflated)

    def _pace(self) -> None:
        """The engine waits for as long as this is behind, or the client is."""
        if self._call is None:
            return
        waits = self._paused or self._behind
        if waits != self._engine_waits:
            self._engine_waits = waits
            if waits:
                self._call.pause()
            else:
                self._call.resume()
        if not self._behind and self._then is not None:
            then, self._then = self._then, None
            then()
