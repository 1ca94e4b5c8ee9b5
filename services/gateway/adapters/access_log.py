"""The access log: one line of JSON per request, on standard error, written in batches. Never a prompt or a key."""

import math
import time

import msgspec
import structlog

from services.gateway.core.token_bucket import TokenBucket
from shared.messages.codec import encode
from shared.runtime import logs

MAX_LINES = 1000
"""Lines kept in memory; more are written at once, not at the next tick."""
ANONYMOUS_RATE = 1.0
ANONYMOUS_BURST = 100
"""Lines per second and in a burst for requests without a valid key, so that nobody can fill a disk with them."""
SUPPRESSED_EVERY_SECONDS = 10.0
"""Time between two lines that report how many such requests were left out."""

log = structlog.get_logger()


class RequestLine(msgspec.Struct, kw_only=True, gc=False):
    """The fields of a request's line, in order. The log itself sets those that have a default."""

    service: str = ""
    level: str = "info"
    request_id: str
    peer: str
    method: str
    path: str
    status: int
    code: str
    seconds: float
    key_id: str | None
    model: str | None
    machine: str | None
    outcome: str | None
    prompt_tokens: int
    completion_tokens: int
    wake_wait: float
    first_byte: float | None
    event: str = "request"
    timestamp: str = ""


class AccessLog:
    """Keeps lines in memory; `flush`, called on every tick, writes them. A crash may lose the last ones."""

    def __init__(self, service: str, *, enabled: bool) -> None:
        self.enabled = enabled
        """Whether the log is on; if not, callers build no lines."""
        self.unlogged = 0
        """Total of requests without a valid key that were left out."""
        self._service = service
        self._lines: list[bytes] = []
        self._second, self._timestamp = -1, ""
        self._anonymous = TokenBucket(ANONYMOUS_RATE, ANONYMOUS_BURST)
        self._reported, self._reported_at = 0, -math.inf
        """How many of `unlogged` have been reported, and when."""

    def write(self, line: RequestLine, now: float) -> None:
        """Add a line. `now` is Unix seconds."""
        second = int(now)
        if second != self._second:
            self._second, self._timestamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        line.service, line.timestamp = self._service, f"{self._timestamp}.{int((now - second) * 1e6):06d}Z"
        self._lines.append(encode(line))
        if len(self._lines) >= MAX_LINES:
            self.flush()

    def admits_anonymous(self, now: float) -> bool:
        """Return whether a request without a valid key gets a line; if not, count it. `now` is Unix seconds."""
        admitted = self._anonymous.take(now)
        self.unlogged += not admitted
        return admitted

    def report_suppressed(self, now: float = math.inf) -> None:
        """Log how many requests were left out, unless that was logged just now. Without `now`: always."""
        if self.unlogged > self._reported and not 0 <= now - self._reported_at < SUPPRESSED_EVERY_SECONDS:
            count, self._reported, self._reported_at = self.unlogged - self._reported, self.unlogged, now
            log.info("requests_suppressed", count=count, reason="too many requests without a valid key")

    def close(self) -> None:
        self.report_suppressed()
        self.flush()

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            logs.stderr().write_bytes(b"\n".join([*lines, b""]))
