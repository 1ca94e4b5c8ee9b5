"""One request as it came over a connection, and how much of it is in memory."""

from services.gateway.core.memory import Held, Memory

AUTHORIZATION = b"authorization"


class Request:
    """Head first, then the body bit by bit. Header names are lower case."""

    __slots__ = (
        "answered",
        "arrived",
        "body",
        "body_deadline",
        "complete",
        "delivered",
        "headers",
        "held",
        "id",
        "keep_alive",
        "method",
        "opened",
        "peer",
        "target",
        "version",
    )

    def __init__(self, memory: Memory) -> None:
        self.held = Held(memory)
        """Its body."""
        self.id = ""
        """Ours, a UUIDv7."""
        self.arrived = 0.0
        """Unix seconds at which its head was complete."""
        self.peer = ""
        """The address of who connected: a client, or the proxy before us."""
        self.method = ""
        self.target = b""
        self.version = ""
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = False
        self.body = bytearray()
        self.body_deadline = 0.0
        self.opened = False
        self.delivered = False
        self.complete = False
        self.answered = False

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def text_headers(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers.items()}

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
        """More of its body. False: there is no room for it."""
        if not self.held.grow(len(data)):
            return False
        self.body += data
        return True

    def take_body(self) -> bytes:
        """All of it, for the one who asked; it counts until `drop_body`."""
        body, self.body = bytes(self.body), bytearray()
        return body

    def drop_body(self) -> None:
        """Nobody has it any more."""
        if self.held.size_bytes:
            self.held.release()
            self.body = bytearray()


def peer_address(name: object) -> str:
    """The address alone of a socket's peer; none where the socket has gone already."""
    return str(name[0]) if isinstance(name, tuple) and name else ""
