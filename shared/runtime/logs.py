"""Writes logs: one JSON object per line on stderr, with the service's name. Never a prompt, never a secret."""

import contextlib
import functools
import json
import logging
import math
import os
import select
import stat
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO, cast

import structlog

from shared.config.load import environment
from shared.errors import Misconfigured
from shared.units import MINUTE_S

LEVEL_VARIABLE = "SPOTINFERENCE_LOG_LEVEL"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LIBRARY_LINES_PER_MINUTE = 20
PLACES = 5
"""Calls of a library's traceback that are logged."""
REDACTED = frozenset({"key", "authorization", "password", "secret", "token", "messages", "prompt", "body"})


def _redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in REDACTED & event.keys():
        event[name] = "…"
    return event


class LossyStream:
    """A descriptor for lines that may be lost, so that neither an unread pipe nor a full disk fails a request.

    Lines that do not fit into a pipe are dropped. A pipe that is ready takes `PIPE_BUF` bytes without blocking.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll: select.poll | None = None
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._poll = select.poll()
                self._poll.register(descriptor, select.POLLOUT)

    def write(self, text: str) -> None:
        self.write_bytes(text.encode("utf-8", "replace"))

    def write_bytes(self, data: bytes) -> None:
        """Write whole lines. What the descriptor does not take is dropped."""
        with contextlib.suppress(OSError):
            while data and (self._poll is None or self._poll.poll(0)):
                part = data if self._poll is None else data[: select.PIPE_BUF]
                data = data[os.write(self._descriptor, part) :]

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


class LibraryHandler(logging.Handler):
    """Writes that a library logged something and where, but none of its words: they may quote what was sent.

    An HTTP parser quotes the line that it cannot read, with the key in it, and anybody may send it such lines.
    """

    def __init__(self, stream: LossyStream, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stream = stream
        self._monotonic = monotonic
        self._began = -math.inf
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record unless this minute has its lines."""
        now = self._monotonic()
        if now - self._began >= MINUTE_S:
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines > LIBRARY_LINES_PER_MINUTE:
            return
        kind, _, trace = record.exc_info or (None, None, None)
        at = _places(trace) or [f"{record.filename}:{record.lineno} {record.funcName}"]
        fields = {"event": f"{record.name}: {record.levelname}", "error": kind and kind.__name__, "at": at}
        line = json.dumps({name: value for name, value in fields.items() if value})
        self._stream.write(f"{line}\n")


def _places(trace: TracebackType | None) -> list[str]:
    """Return the innermost calls of a traceback."""
    frames = traceback.extract_tb(trace, limit=-PLACES)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


@functools.cache
def stderr() -> LossyStream:
    """Return this process's standard error."""
    return LossyStream(2)


def configured_level() -> int:
    """Return the level that the environment names. Raises `Misconfigured` if it is none."""
    name = environment(LEVEL_VARIABLE)
    if name is None:
        return logging.INFO
    if name.lower() not in LEVELS:
        raise Misconfigured(f"{LEVEL_VARIABLE} must be one of {', '.join(LEVELS)}, got {name!r}")
    return LEVELS[name.lower()]


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
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", stderr())),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    # Libraries that use the standard module log warnings and worse to the same stream.
    logging.basicConfig(level=logging.WARNING, handlers=[LibraryHandler(stderr())])
