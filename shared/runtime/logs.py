"""Logs: one JSON object a line on stderr, with the service's name. Never a prompt, never a secret."""

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog

REDACTED = frozenset({"key", "authorization", "password", "secret", "token", "messages", "prompt", "body"})


def _redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in REDACTED & event.keys():
        event[name] = "…"
    return event


class _Lenient:
    """Standard error for lines that may be lost: a disk that is full of logs ends no request."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(service: str, *, level: int = logging.INFO) -> None:
    """Set up structlog for this process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Lenient())),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    # Libraries that use the standard module: warnings and worse, on the same stream.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format='{"event": "%(name)s: %(levelname)s"}')
