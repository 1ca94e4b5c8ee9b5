"""One line of JSON for each request, on standard error like all others, written in batches. Never a prompt or a key."""

from typing import Any

import msgspec
import structlog

from shared.runtime import logs

MAX_LINES = 1000
"""Then they are written at once, not at the next tick."""

_encoder = msgspec.json.Encoder(decimal_format="string")


class AccessLog:
    """`line` keeps it in memory; `flush`, on every tick, writes. What a crash loses of it counts for nothing."""

    def __init__(self, service: str, *, enabled: bool) -> None:
        self._lines: list[bytes] = []
        self.enabled = enabled
        """Whether `line` does anything: a caller may spare itself the facts."""
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

    def info(self, line: bytes) -> None:
        """From structlog."""
        self._lines.append(line)

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            logs.stderr().write_bytes(b"\n".join([*lines, b""]))


def _rendered(_logger: Any, _method: str, event: structlog.typing.EventDict) -> bytes:
    return _encoder.encode(event)
