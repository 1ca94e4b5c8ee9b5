"""What the waker asks of the world beside the bus: providers of machines, and engines that answer."""

from dataclasses import dataclass
from typing import Protocol

from services.waker.core.events import Sight
from shared.messages.waker import CallOutcome


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """`refused`: it will not happen, `reason` says why and how to mend it. `unknown`: look before doing more."""

    outcome: CallOutcome
    code: str = ""
    reason: str = ""
    endpoint: str | None = None


ACCEPTED = CallResult(outcome="accepted")


class Provider(Protocol):
    """Who rents out one machine. Every call is safe to repeat, and none makes a second engine."""

    async def start(self, generation: int) -> CallResult:
        """Wake it. Accepted: it is on its way; an endpoint comes as soon as one is known."""
        ...

    async def stop(self) -> CallResult:
        """Put it to sleep, also when it sleeps. Accepted: it is on its way; asked again, it is done with more force."""
        ...

    async def look(self) -> Sight:
        """What there is now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a probe got. `tokens` is what it made the engine work."""

    answered: bool
    code: str = ""
    tokens: int = 0


class Prober(Protocol):
    """Asks engines. `endpoint` is an origin without `/v1`; both take at most `timeout` seconds and never raise."""

    async def reach(self, endpoint: str, timeout: float) -> Answer:
        """Whether the engine answers at all."""
        ...

    async def token(self, endpoint: str, model: str, timeout: float) -> Answer:
        """Whether it answers one token."""
        ...
