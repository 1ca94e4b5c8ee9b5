"""Finds another machine for a request whose machine failed before the first byte, at once or within 0.1 s."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.adapters.http.upstream import Upstream
from services.gateway.app.admission import UNSETTLED_RETRIES, UNSETTLED_SECONDS
from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from shared.messages.waker import MachineRecord


@dataclass(eq=False, slots=True)
class Failover:
    """The one failover of a request.

    If another machine has room that is leased to other gateways, it waits for a lease as a new request does.
    """

    _upstream: Upstream
    _on_place: Callable[[MachineRecord], None]
    """Called with a place on another machine."""
    _on_wait: Callable[[], None]
    """Called before the wait for one."""
    _on_none: Callable[[ApiError], None]
    """Called with the client's error if there is none after the wait."""
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)

    def start(self, model: str, key_id: str, *, failed: str) -> bool:
        """Return False if there is no other machine; else one of the callbacks has been or will be called."""
        return self._try_place(model, key_id, failed, UNSETTLED_RETRIES)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _try_place(self, model: str, key_id: str, failed: str, retries_left: int) -> bool:
        scheduler, now = self._upstream.scheduler, self._upstream.now()
        machine = scheduler.acquire(model, key_id, now, exclude=failed)
        if machine is not None:
            self._on_place(machine)
            return True
        if not retries_left or not scheduler.is_leased_elsewhere(model, now, exclude=failed):
            return False
        if self._timer is None:
            self._on_wait()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(UNSETTLED_SECONDS, self._retry, model, key_id, failed, retries_left - 1)
        return True

    def _retry(self, model: str, key_id: str, failed: str, retries_left: int) -> None:
        if not self._try_place(model, key_id, failed, retries_left):
            self._on_none(errors.upstream_unreachable())
