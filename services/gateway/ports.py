"""What the use cases need from the outside world."""

from typing import Protocol

from services.gateway.core.errors import ApiError
from shared.messages.gateway import UsageEvent, WakeCause


class UsageStore(Protocol):
    """Keeps usage events until the ledger has confirmed them."""

    @property
    def source(self) -> str:
        """The `source` of this process's events."""

    @property
    def next_seq(self) -> int:
        """The `source_seq` that the next event must have."""

    @property
    def fault(self) -> str | None:
        """Why no new request may be served; None if all is well. It is read for each request."""

    def append(self, event: UsageEvent) -> None:
        """Keep the event. A full disk does not raise; it shows in `fault`."""


class WakeRequester(Protocol):
    """Asks the waker for machines."""

    def changed(self, model: str) -> None:
        """Call this after each change of the model's queue."""

    def request_once(self, model: str, request_id: str, cause: WakeCause, deadline: float) -> None:
        """Ask for one wake on behalf of a caller that does not wait. `deadline` is in Unix seconds."""


class RunningExchange(Protocol):
    """A request under way, as the shutdown sees it."""

    @property
    def is_forwarded(self) -> bool:
        """Whether the request has a place on a machine."""

    def interrupt(self, error: ApiError) -> None:
        """End the request with an error, whatever it waits for."""

    def count_running(self) -> None:
        """Count the tokens so far against the limits of the request's key."""
