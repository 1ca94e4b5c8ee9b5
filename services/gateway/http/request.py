"""One request as it came over a connection, and how much of it is in memory."""

from services.gateway.http.budget import Budget

AUTHORIZATION = b"authorization"


class Request:
    """Head first, then the body bit by bit. Header names are lower case."""

    __slots__ = (
        "answered",
        "arrived",
        "body",
        "body_deadline",
        "budget",
        "buffered",
        "complete",
        "delivered",
        "headers",
        "id",
        "keep_alive",
        "method",
        "opened",
        "target",
        "version",
    )

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.id = ""
        """Ours, a UUIDv7."""
        self.arrived = 0.0
        """Unix seconds at which its head was complete."""
        self.method = ""
        self.target = b""
        self.version = ""
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = False
        self.body = bytearray()
        self.buffered = 0
        """Bytes of its body that count as being in memory."""
        self.body_deadline = 0.0
        self.opened = False
        self.delivered = False
        self.complete = False
        self.answered = False

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def head_bytes(self) -> int:
        """Of its target and headers, as far as they have come."""
        return len(self.target) + sum(len(name) + len(value) for name, value in self.headers.items())

    @property
    def content_length(self) -> int | None:
        """The parser has made sure that it is a number."""
        value = self.headers.get(b"content-length")
        return None if value is None else int(value)

    def grow(self, data: bytes) -> bool:
        """More of its body. False: all bodies together take too much memory."""
        if not self.budget.take(len(data)):
            return False
        self.buffered += len(data)
        self.body += data
        return True

    def take_body(self) -> bytes:
        """All of it, for the one who asked; it counts until `drop_body`."""
        body, self.body = bytes(self.body), bytearray()
        return body

    def drop_body(self) -> None:
        """Nobody has it any more."""
        if self.buffered:
            self.budget.give_back(self.buffered)
            self.buffered = 0
            self.body = bytearray()
