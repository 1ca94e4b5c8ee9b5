"""The state of one request, from its head to its usage event."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.core.buffer_memory import BufferedBytes
from services.gateway.core.errors import ApiError
from services.gateway.core.rate_limits import Reservation
from services.gateway.core.usage_record import UsageRecord

if TYPE_CHECKING:
    from services.gateway.adapters.http.relay import Relay


@dataclass(eq=False, slots=True)
class Exchange:
    """One request and its response. The handler owns it."""

    response: ClientResponse
    usage: UsageRecord
    body: BufferedBytes
    """The bytes of the request's body."""
    reservation: Reservation | None = None
    """What the request reserves of its key's limits; None: the key has none."""
    relay: "Relay | None" = None
    """Set once the request has a place on a machine."""
    _interruption: ApiError | None = None
    _task: "asyncio.Task[object] | None" = field(default_factory=asyncio.current_task)

    @property
    def is_forwarded(self) -> bool:
        return self.relay is not None

    def interrupt(self, error: ApiError) -> None:
        """End the request with an error, whatever it waits for."""
        if self._task is not None and self._interruption is None:
            self._interruption = error
            self._task.cancel()

    def take_interruption(self) -> ApiError | None:
        """Return why the handler was cancelled, and let it continue; None if the client has left."""
        if self._task is not None and self._interruption is not None:
            self._task.uncancel()
        return self._interruption

    def count_running(self) -> None:
        """Count the tokens so far against the key's limits."""
        if self.reservation is not None and self.relay is not None:
            running = self.relay.running
            self.reservation.update(running.prompt + running.completion)
