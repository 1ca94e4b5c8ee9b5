"""What a client sends, as requests: bytes in, heads and bodies out, within their bounds. Sends nothing."""

import math
from collections import deque
from collections.abc import Callable

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.memory import Memory
from services.gateway.http.request import Request
from shared.config import GatewaySection

FRAMING_PER_BYTE = 8
"""Bytes of chunk framing for each byte of a body that comes a byte at a time, and some more."""
ONLY_ONCE = frozenset({b"host", b"transfer-encoding"})
"""Given twice, they mean one thing here and another to whoever reads the other one."""

OF_AN_OFFER = frozenset({b"upgrade", b"connection", b"http2-settings"})


class Incoming:
    """`requests` grows by one with each head that is complete; the last one's body may still come."""

    __slots__ = (
        "_begins",
        "_framing",
        "_head",
        "_head_bytes",
        "_memory",
        "_offer",
        "_on_head",
        "_parser",
        "_previous",
        "_read",
        "_settings",
        "fault",
        "head_deadline",
        "now",
        "requests",
    )

    def __init__(self, settings: GatewaySection, memory: Memory, on_head: Callable[[Request], None]) -> None:
        self._settings = settings
        self._on_head = on_head
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._head: Request | None = None
        """Whose head is not complete."""
        self._head_bytes = 0
        """Of earlier reads."""
        self._begins = False
        """Whether the head began in the read that is being parsed."""
        self._read = 0
        """Bytes of the read that is being parsed."""
        self._offer: Request | None = None
        """A request that would rather be one of another protocol."""
        self._previous: Request | None = None
        """The last one whose head was complete."""
        self._framing = 0
        """Bytes since the last head that are no body: sizes of chunks, extensions, trailers."""
        self._memory = memory
        self.now = 0.0
        """Monotonic seconds, for deadlines; set before `feed`."""
        self.head_deadline = math.inf
        self.requests: deque[Request] = deque()
        self.fault: ApiError | None = None
        """Why nothing that follows can be understood, or is wanted."""

    @property
    def in_head(self) -> bool:
        return self._head is not None

    def feed(self, data: bytes) -> None:
        self._begins = False
        self._read = len(data)
        self._framing += len(data)
        rest = data
        while rest and self.fault is None and self._parser is not None:
            rest = self._parse(self._parser, rest)
        if self._head is not None:
            # Where in a read a head begins is not known: of that read only what has been told counts.
            self._head_bytes = self._head.head_bytes if self._begins else self._head_bytes + len(data)
            if self._head_bytes > self._settings.max_head_bytes and self.fault is None:
                self.fault = errors.head_too_large(self._settings.max_head_bytes)
        elif self.requests and not self.requests[-1].complete:
            most = self._settings.max_head_bytes + FRAMING_PER_BYTE * len(self.requests[-1].body)
            if self._framing > most and self.fault is None:
                self.fault = errors.malformed("its chunks are framing more than content")
        self._read = 0

    def _parse(self, parser: HttpRequestParser, data: bytes) -> bytes:
        """What is to be parsed next."""
        try:
            parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            return self._declined() + data[upgrade.args[0] :]
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, ApiError):
                raise
            self.fault = error.__context__
        except HttpParserError as error:
            self.fault = errors.malformed(str(error))
        return b""

    def _declined(self) -> bytes:
        """Another protocol was offered, which nobody has to take up: the same head once more without the offer.

        Java's client offers HTTP/2 with each request. Behind such a head the parser would read no body.
        """
        request, self._offer = self._offer, None
        assert request is not None, "a parser stops at an offer"
        self._parser = HttpRequestParser(self)
        kept = b"".join(b"%b: %b\r\n" % pair for pair in request.headers.items() if pair[0] not in OF_AN_OFFER)
        ending = b"\r\n" if request.keep_alive else b"Connection: close\r\n\r\n"
        first = f"{request.method} ".encode("ascii") + request.target + f" HTTP/{request.version}\r\n".encode("ascii")
        return first + kept + ending

    def broken_head(self) -> Request:
        """A stand-in for the request that could not be read: it is to be answered all the same."""
        request = self._head or Request(self._memory)
        self._head = None
        self._on_head(request)
        self.requests.append(request)
        return request

    def close(self) -> None:
        """The connection has gone."""
        for request in self.requests:
            request.drop_body()
        self.requests.clear()
        self._previous = None
        self._parser = None  # it holds our methods: without this only the collector would free the two

    # From the parser.

    def on_message_begin(self) -> None:
        self._head = Request(self._memory)
        self._head_bytes = 0
        self._begins = True
        self.head_deadline = self.now + self._settings.head_timeout

    def on_url(self, url: bytes) -> None:
        if self._head is not None:
            self._head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        if head is None:
            return  # a trailer: nothing needs it
        name = name.lower()
        if name in ONLY_ONCE and name in head.headers:
            raise errors.malformed(f"{name.decode('latin-1')} is given twice")
        head.headers[name] = value

    def on_headers_complete(self) -> None:
        request, self._head = self._head, None
        parser = self._parser
        assert request is not None, "a head is complete that never began"
        assert parser is not None, "a parser's callback has a parser"
        most = self._settings.max_head_bytes
        # Part of what was read may be of the body, so it is looked at closely.
        if self._head_bytes + self._read > most and max(request.head_bytes, self._head_bytes) > most:
            raise errors.head_too_large(most)
        request.method = parser.get_method().decode("latin-1")
        request.version = parser.get_http_version()
        # HTTP/1.0 closes at the end of an answer, the only end that it knows for a stream.
        request.keep_alive = request.version == "1.1" and parser.should_keep_alive()
        self._framing = 0
        if request.version not in {"1.0", "1.1"} or request.method == "CONNECT":
            raise errors.malformed("this server speaks HTTP/1.1 and HTTP/1.0 alone")
        if parser.should_upgrade():
            self._offer = request
            return
        if request.version == "1.1" and b"host" not in request.headers:
            raise errors.malformed("Host is missing")
        if request.headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise errors.malformed("of the transfer encodings only chunked is understood")
        if self._previous is not None:
            # What is sent ahead of its turn counts for whoever asked before, until its own key is known.
            request.held.move_to(self._previous.held.owner)
        self._previous = request
        self._on_head(request)
        self.requests.append(request)

    def on_body(self, data: bytes) -> None:
        request = self.requests[-1]
        self._framing -= len(data)
        if request.answered:
            return
        if len(request.body) + len(data) > self._settings.max_body_bytes:
            raise errors.request_too_large(self._settings.max_body_bytes)
        if not request.grow(data):
            raise errors.too_many_bytes()

    def on_message_complete(self) -> None:
        if self._offer is None:
            self.requests[-1].complete = True
