"""What a client sends, as requests: bytes in, heads and bodies out, within their bounds. Sends nothing."""

import math
from collections import deque
from collections.abc import Callable

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.http.budget import Budget
from services.gateway.http.request import Request
from shared.config import GatewaySection


class Incoming:
    """`requests` grows by one with each head that is complete; the last one's body may still come."""

    __slots__ = (
        "_head",
        "_head_bytes",
        "_on_head",
        "_parser",
        "_read",
        "_settings",
        "budget",
        "fault",
        "head_deadline",
        "now",
        "requests",
    )

    def __init__(self, settings: GatewaySection, budget: Budget, on_head: Callable[[Request], None]) -> None:
        self._settings = settings
        self._on_head = on_head
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._head: Request | None = None
        """Whose head is not complete."""
        self._head_bytes = 0
        """Of earlier reads."""
        self._read = 0
        """Bytes of the read that is being parsed."""
        self.budget = budget
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
        if self.fault is not None or self._parser is None:
            return
        self._read = len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self.fault = errors.malformed("this server speaks HTTP/1.1 alone")
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, ApiError):
                raise
            self.fault = error.__context__
        except HttpParserError as error:
            self.fault = errors.malformed(str(error))
        if self._head is not None:
            self._head_bytes += len(data)
            if self._head_bytes > self._settings.max_head_bytes and self.fault is None:
                self.fault = errors.head_too_large(self._settings.max_head_bytes)
        self._read = 0

    def broken_head(self) -> Request:
        """A stand-in for the request that could not be read: it is to be answered all the same."""
        request = self._head or Request(self.budget)
        self._head = None
        self._on_head(request)
        self.requests.append(request)
        return request

    def close(self) -> None:
        """The connection has gone."""
        for request in self.requests:
            request.drop_body()
        self.requests.clear()
        self._parser = None  # it holds our methods: without this only the collector would free the two

    # From the parser.

    def on_message_begin(self) -> None:
        self._head = Request(self.budget)
        self._head_bytes = 0
        self.head_deadline = self.now + self._settings.head_timeout

    def on_url(self, url: bytes) -> None:
        if self._head is not None:
            self._head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        if head is None:
            return  # a trailer: nothing needs it
        name = name.lower()
        if name == b"host" and name in head.headers:
            raise errors.malformed("Host is given twice")
        head.headers[name] = value

    def on_headers_complete(self) -> None:
        request, self._head = self._head, None
        parser = self._parser
        assert request is not None, "a head is complete that never began"
        assert parser is not None, "a parser's callback has a parser"
        if self._head_bytes + self._read > self._settings.max_head_bytes:
            # Part of what was read may be of the body, so it is looked at closely.
            size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers.items())
            if max(size, self._head_bytes) > self._settings.max_head_bytes:
                raise errors.head_too_large(self._settings.max_head_bytes)
        request.method = parser.get_method().decode("ascii")
        request.version = parser.get_http_version()
        # HTTP/1.0 closes at the end of an answer, the only end that it knows for a stream.
        request.keep_alive = request.version == "1.1" and parser.should_keep_alive()
        request.body_deadline = self.now + self._settings.body_timeout
        if parser.should_upgrade():
            raise errors.malformed("this server speaks HTTP/1.1 alone")
        if request.version == "1.1" and b"host" not in request.headers:
            raise errors.malformed("Host is missing")
        if request.headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise errors.malformed("of the transfer encodings only chunked is understood")
        self._on_head(request)
        self.requests.append(request)

    def on_body(self, data: bytes) -> None:
        request = self.requests[-1]
        if request.answered:
            return
        if len(request.body) + len(data) > self._settings.max_body_bytes:
            raise errors.request_too_large(self._settings.max_body_bytes)
        if not request.grow(data):
            raise errors.too_many_bytes()

    def on_message_complete(self) -> None:
        self.requests[-1].complete = True
