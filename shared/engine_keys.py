"""The keys that engines require, from the `key_file` of a machine or of its tier. Clients neither see nor send them."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shared.config.fleet import Machine
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.fleet_records import is_assigned
from shared.messages.codec import decode_text

CHECK_SECONDS = 1.0
"""How often a file that is in use is checked for a change: one system call."""
MAX_FILE_BYTES = 8192
_KEY = re.compile(rb"[\x21-\x7e]{1,4096}")
"""What fits into one HTTP header without ending it."""

log = structlog.get_logger()


class EngineKeys:
    """The keys. A file that changes is read again; until it holds a key, the key from before stays.

    Raises:
        Misconfigured: a file cannot be read or holds no key.
    """

    def __init__(self, config: Config, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._keys: dict[str, tuple[Machine, _KeyFile]] = {}
        self.update(config)

    def update(self, config: Config) -> None:
        """Follow a new configuration. Raises `Misconfigured` and keeps the old keys, as when it is built."""
        files: dict[Path, _KeyFile] = {}
        keys: dict[str, tuple[Machine, _KeyFile]] = {}
        places = [(f"machine {m.id!r}", m.key_file, [m]) for m in config.machine]
        places += [
            (f"tier {t.name!r}", t.key_file, [m for m in config.machine if m.tier == t.name and m.key_file is None])
            for t in config.tier
        ]
        for place, path, machines in places:
            if path is not None:
                if path not in files:
                    files[path] = _KeyFile(place, path, self._monotonic())
                keys |= {machine.id: (machine, files[path]) for machine in machines}
        self._keys = keys

    def find(self, machine: str, endpoint: str) -> str | None:
        """Return the key for a machine's engine at this endpoint; None if it has none.

        The key is only sent to the endpoint in the configuration, or to this host for a `process` machine. Otherwise
        anyone who can write a record could obtain it.
        """
        configured, file = self._keys.get(machine, (None, None))
        if configured is None or file is None or not is_assigned(configured, endpoint):
            return None
        return file.current(self._monotonic())


def no_key(machine: str, endpoint: str) -> str | None:
    """Stands for `EngineKeys.find` where no engine requires a key."""
    del machine, endpoint
    return None


@dataclass(eq=False, slots=True)
class _KeyFile:
    """One file and the key in it, which no representation shows."""

    place: str
    path: Path
    checked_at: float
    _stamp: tuple[int, int, int] = (0, 0, 0)
    _key: str = field(default="", repr=False)
    _fault: str | None = None

    def __post_init__(self) -> None:
        self._read()
        if self._fault is not None:
            raise Misconfigured(self._fault)

    def current(self, now: float) -> str:
        """Return the key, from the file if that has changed."""
        if now - self.checked_at >= CHECK_SECONDS:
            self.checked_at = now
            before, key = self._fault, self._key
            self._read()
            if self._fault is not None and self._fault != before:
                log.error("engine_key_not_replaced", reason=self._fault)
            elif self._key != key:
                log.info("engine_key_replaced", path=str(self.path))
        return self._key

    def _read(self) -> None:
        """Read the key if the file has changed. A fault leaves the key as it is."""
        try:
            status = self.path.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if stamp == self._stamp:
                return
            with self.path.open("rb") as file:
                key = file.read(MAX_FILE_BYTES).strip()
        except OSError as error:
            self._stamp, self._fault = (0, 0, 0), f"{self.place}: key_file {self.path}: {error.strerror}"
            return
        self._stamp, self._fault = stamp, None
        if _KEY.fullmatch(key):
            self._key = decode_text(key)
        else:
            self._fault = f"{self.place}: key_file {self.path}: must hold one key of printable ASCII without spaces"
