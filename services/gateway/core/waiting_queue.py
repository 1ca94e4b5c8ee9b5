"""Waiting requests, and the order in which they are served."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from services.gateway.core.errors import ApiError
from shared.messages.gateway import WakeCause
from shared.messages.waker import MachineRecord


@dataclass(eq=False, slots=True)
class Ticket:
    """One waiting request."""

    model: str
    key_id: str
    request_id: str
    deadline: float
    on_grant: Callable[[MachineRecord], None]
    on_refuse: Callable[[ApiError], None]
    """Called if no place will come; the ticket has left the queue."""
    cause: WakeCause | None = None
    """The request's key and the key's wake limits."""
    arrived: float = 0.0
    """When the request arrived, on the clock of `deadline`."""
    may_wake: bool = True
    """Whether the request may wake a machine. If not, it only waits for room on one that is awake."""


@dataclass(slots=True)
class Queue:
    """The waiting requests of one model: keys take turns, and each key's requests keep their order."""

    keys: OrderedDict[str, OrderedDict[Ticket, None]] = field(default_factory=OrderedDict)
    """The next key comes first."""
    demanding: int = 0
    """How many of the requests may wake a machine."""

    def __iter__(self) -> Iterator[Ticket]:
        """Iterate key by key, in the order of their turns."""
        for tickets in self.keys.values():
            yield from tickets

    def add(self, ticket: Ticket) -> None:
        self.keys.setdefault(ticket.key_id, OrderedDict())[ticket] = None
        self.demanding += ticket.may_wake

    def discard(self, ticket: Ticket) -> bool:
        """Remove the ticket; return whether it was there."""
        tickets = self.keys.get(ticket.key_id)
        if tickets is None or ticket not in tickets:
            return False
        del tickets[ticket]
        if not tickets:
            del self.keys[ticket.key_id]
        self.demanding -= ticket.may_wake
        return True

    def end_turn(self) -> None:
        """Give the next turn to another key."""
        self.keys.move_to_end(next(iter(self.keys)))
