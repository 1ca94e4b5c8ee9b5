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
    _response: StreamedResponse | BufferedResponse
    _owner: ResponseOwner
    _call: EngineCall | None
    """None once nobody wants more."""
    _rest: bytes = b""
    """Not inflated yet."""
    _paused: bool = False
    _engine_waits: bool = False
    _step_is_due: bool = False
    _deferred: Callable[[], None] | None = None

    @property
    def complete(self) -> bool:
        return self._inflater.complete

    @property
    def _has_more(self) -> bool:
        return bool(self._rest) or self._inflater.has_more

    def feed(self, data: bytes) -> None:
        self._rest += data
        if isinstance(self._response, BufferedResponse):
            self._inflate(MAX_INFLATED)
            if self._inflater.has_more and self._call is not None:
                self.stop()
                self._owner.on_unusable("it inflates to too much")
        elif not (self._step_is_due or self._paused):
            self._step()
        self._pace_engine()

    def pause(self) -> None:
        """The client cannot take more now."""
        self._paused = True
        self._pace_engine()

    def resume(self) -> None:
        self._paused = False
        self._step_soon()
        self._pace_engine()

    def defer(self, then: Callable[[], None]) -> bool:
        """Whether something is still to be given on: then `then` is called behind it."""
        if self._has_more:
            self._deferred = then
        return self._has_more

    def stop(self) -> None:
        """Nobody wants more."""
        self._deferred = self._call = None

    def _step(self) -> None:
        """One now, and the next in the next iteration of the loop."""
        self._step_is_due = False
        if self._call is not None and self._has_more and not self._paused:
            self._inflate(STEP_BYTES)
            self._step_soon()
            self._pace_engine()

    def _step_soon(self) -> None:
        if not self._step_is_due:
            self._step_is_due = True
            asyncio.get_running_loop().call_soon(self._step)

    def _inflate(self, most: int) -> None:
        data, self._rest = self._rest, b""
        try:
            inflated = self._inflater.feed(data, most)
        except Undecodable as error:
            self.stop()
            self._owner.on_unusable(str(error))
        else:
            if inflated:
                self._response.feed(inflated)

    def _pace_engine(self) -> None:
        """The engine waits for as long as this is behind, or the client is."""
        if self._call is None:
            return
        waits = self._paused or self._has_more
        if waits != self._engine_waits:
            self._engine_waits = waits
            if waits:
                self._call.pause()
            else:
                self._call.resume()
        if not self._has_more and self._deferred is not None:
            then, self._deferred = self._deferred, None
            then()
