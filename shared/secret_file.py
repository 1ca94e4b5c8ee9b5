"""A secret in a file that may be replaced while it is in use, such as a mounted secret of Kubernetes."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shared.errors import Misconfigured
from shared.messages.codec import decode_text

CHECK_SECONDS = 1.0
"""How often a file that is in use is checked for a change: one system call."""
MAX_FILE_BYTES = 8192
_SECRET = re.compile(rb"[\x21-\x7e]{1,4096}")
"""What fits into one HTTP header without ending it."""

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class SecretFile:
    """One file and the secret in it, which no representation shows.

    A file that changes is read again; until it holds a secret, the one from before stays.

    Raises:
        Misconfigured: it cannot be read or holds no secret.
    """

    place: str
    """The setting that names the file."""
    path: Path
    monotonic: Callable[[], float] = time.monotonic
    _checked_at: float = 0.0
    _stamp: tuple[int, int, int] = (0, 0, 0)
    _secret: str = field(default="", repr=False)
    _fault: str | None = None

    def __post_init__(self) -> None:
        self._checked_at = self.monotonic()
        self._read()
        if self._fault is not None:
            raise Misconfigured(self._fault)

    def current(self) -> str:
        """Return the secret, from the file if that has changed."""
        if self.monotonic() - self._checked_at >= CHECK_SECONDS:
            self.reread()
        return self._secret

    def reread(self) -> None:
        """Read the file at once if it has changed: the secret was rejected."""
        self._checked_at = self.monotonic()
        fault, secret = self._fault, self._secret
        self._read()
        if self._fault is not None and self._fault != fault:
            log.error("secret_file_rejected", reason=self._fault)
        elif self._secret != secret:
            log.info("secret_file_reread", path=str(self.path))

    def _read(self) -> None:
        """Read the secret if the file has changed. A fault leaves it as it is."""
        try:
            status = self.path.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if stamp == self._stamp:
                return
            with self.path.open("rb") as file:
                secret = file.read(MAX_FILE_BYTES).strip()
        except OSError as error:
            self._stamp, self._fault = (0, 0, 0), f"{self.place} {self.path}: {error.strerror}"
            return
        self._stamp, self._fault = stamp, None
        if _SECRET.fullmatch(secret):
            self._secret = decode_text(secret)
        else:
            self._fault = f"{self.place} {self.path}: must hold one key of printable ASCII without spaces"
