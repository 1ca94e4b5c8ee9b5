"""Decompresses an engine's response at the pace of the client."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.adapters.engine_client import EngineCall
from services.gateway.adapters.http.response import BufferedResponse, ResponseOwner, StreamedResponse
from services.gateway.core.content_coding import MAX_INFLATED, Inflater, Undecodable

STEP_BYTES = 256 * 1024
"""Bytes inflated at once: as much as one read of an uncompressed response."""


@dataclass(slots=True, eq=False)
class PacedInflater:
    """Passes on a compressed response: a buffered one as it arrives, a stream by one step per loop iteration.

    The engine is paused until everything has been passed on, and the steps pause while the client cannot take more.
    """

    _inflater: Inflater
    _response: StreamedResponse | BufferedResponse
    _owner: ResponseOwner
    _call: EngineCall | None
    """None once it has been stopped."""
    _rest: bytes = b""
    """Bytes that are not inflated yet."""
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
                self._owner.on_unusable("the response inflates to too much")
        elif not (self._step_is_due or self._paused):
            self._step()
        self._pace_engine()

    def pause(self) -> None:
        """Pause: the client cannot take more now."""
        self._paused = True
        self._pace_engine()

    def resume(self) -> None:
        self._paused = False
        self._step_soon()
        self._pace_engine()

    def defer(self, then: Callable[[], None]) -> bool:
        """Return whether data is pending; if so, call `then` once it has been passed on."""
        if self._has_more:
            self._deferred = then
        return self._has_more

    def stop(self) -> None:
        """Stop: pass on nothing more."""
        self._deferred = self._call = None

    def _step(self) -> None:
        """Inflate one step now, and schedule the next for the next loop iteration."""
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
        """Pause the engine while data is pending or the client is paused."""
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
