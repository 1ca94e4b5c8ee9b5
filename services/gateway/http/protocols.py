"""What the parts of an exchange need of each other."""

from typing import TYPE_CHECKING, Protocol

from services.gateway.core.cors import Cors
from services.gateway.core.errors import ApiError
from services.gateway.core.memory import Memory
from services.gateway.http.request import Request
from services.gateway.write_batcher import WriteBatcher
from shared.config import GatewaySection

if TYPE_CHECKING:
    from services.gateway.http.answer import WholeAnswer
    from services.gateway.http.connection import ClientConnection


class Serving(Protocol):
    """Whoever answers one request. Nothing is called after the answer has ended."""

    def receive(self, body: bytes) -> None:
        """The whole body is here."""

    def gone(self) -> None:
        """The client has left."""

    def pause(self) -> None:
        """The client reads slower than it is sent to."""

    def resume(self) -> None: ...


class Application(Protocol):
    """What all connections share."""

    settings: GatewaySection
    memory: Memory
    batcher: WriteBatcher
    now: float
    """Monotonic seconds, as of the last tick."""
    every_answer: bytes
    """Header lines."""

    cors: Cors | None
    """None: no other site's page may read anything."""

    @property
    def leaving(self) -> bool: ...

    def connected(self, client: "ClientConnection") -> bool:
        """False: it is one too many."""

    def disconnected(self, client: "ClientConnection") -> None: ...

    def begin(self, request: Request) -> None:
        """The head is complete: give the request its id and its time."""

    def open(self, request: Request, client: "ClientConnection") -> Serving | None:
        """Answer from the head alone and return None, or say who takes the body."""

    def refuse(self, request: Request, client: "ClientConnection", error: ApiError) -> None:
        """Answer with an error."""


class RelayOwner(Protocol):
    """The client's side. `finish_stream`, `finish_whole` or `fail` comes last."""

    def start_stream(self, fields: bytes) -> None:
        """Send the head of a stream, unless one has been sent."""

    def record(self) -> None:
        """Count the request now, whatever happens to it from here on."""

    def finish_stream(self) -> None: ...

    def finish_whole(self, answer: "WholeAnswer") -> None: ...

    def fail(self, error: ApiError) -> None: ...
