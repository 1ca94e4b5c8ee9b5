"""One line of JSON for each request, on standard error like all others, written in batches. Never a prompt or a key."""

import math
from typing import Any

import msgspec
import structlog

from services.gateway.core.token_bucket import TokenBucket
from shared.runtime import logs

MAX_LINES = 1000
"""Then they are written at once, not at the next tick."""
ANONYMOUS_RATE = 1.0
ANONYMOUS_BURST = 100
"""Lines a second, in the long run and at once, for requests without a valid key: nobody can fill a disk with them."""
SUPPRESSED_EVERY_SECONDS = 10.0
"""Between two lines that say how many such requests have none."""

_encoder = msgspec.json.Encoder(decimal_format="string")


class AccessLog:
    """`line` keeps it in memory; `flush`, on every tick, writes. What a crash loses of it counts for nothing."""

    def __init__(self, service: str, *, enabled: bool) -> None:
        self._lines: list[bytes] = []
        self.enabled = enabled
        """Whether `line` does anything: a caller may spare itself the facts."""
        self.unlogged = 0
        """Requests without a valid key that have no line, in all."""
        self._anonymous = TokenBucket(ANONYMOUS_RATE, ANONYMOUS_BURST)
        self._reported = 0
        """Of them, how many the log says."""
        self._reported_at = -math.inf
        self._log = structlog.wrap_logger(
            self,
            processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), _rendered],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        ).bind(service=service, level="info")

    def line(self, **facts: object) -> None:
        if self.enabled:
            self._log.info("request", **facts)
            if len(self._lines) >= MAX_LINES:
                self.flush()

    def admits_anonymous(self, now: float) -> bool:
        """Return whether a request without a valid key gets a line; else it is counted. `now` is Unix seconds."""
        admitted = self._anonymous.take(now)
        self.unlogged += not admitted
        return admitted

    def report_suppressed(self, now: float = math.inf) -> None:
        """Write how many requests have no line, unless that was written just now. Without `now`: at the end."""
        if self.unlogged > self._reported and not 0 <= now - self._reported_at < SUPPRESSED_EVERY_SECONDS:
            count, self._reported, self._reported_at = self.unlogged - self._reported, self.unlogged, now
            self._log.info("requests_suppressed", count=count, reason="no valid key, and too many at once")

    def info(self, line: bytes) -> None:
        """From structlog."""
        self._lines.append(line)

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            logs.stderr().write_bytes(b"\n".join([*lines, b""]))


def _rendered(_logger: Any, _method: str, event: structlog.typing.EventDict) -> bytes:
    return _encoder.encode(event)
