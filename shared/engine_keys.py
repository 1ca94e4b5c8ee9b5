"""The keys that engines require, from the `key_file` of a machine or of its tier. Clients neither see nor send them."""

import time
from collections.abc import Callable
from pathlib import Path

from shared.config.fleet import Machine
from shared.config.sections import Config
from shared.fleet_records import is_assigned
from shared.secret_file import SecretFile


class EngineKeys:
    """The keys. A file that changes is read again; until it holds a key, the key from before stays.

    Raises:
        Misconfigured: a file cannot be read or holds no key.
    """

    def __init__(self, config: Config, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._keys: dict[str, tuple[Machine, SecretFile]] = {}
        self.update(config)

    def update(self, config: Config) -> None:
        """Follow a new configuration. Raises `Misconfigured` and keeps the old keys, as when it is built."""
        files: dict[Path, SecretFile] = {}
        keys: dict[str, tuple[Machine, SecretFile]] = {}
        places = [(f"machine {m.id!r}", m.key_file, [m]) for m in config.machine]
        places += [
            (f"tier {t.name!r}", t.key_file, [m for m in config.machine if m.tier == t.name and m.key_file is None])
            for t in config.tier
        ]
        for place, path, machines in places:
            if path is not None:
                if path not in files:
                    files[path] = SecretFile(f"{place}: key_file", path, self._monotonic)
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
        return file.current()


def no_key(machine: str, endpoint: str) -> str | None:
    """Stands for `EngineKeys.find` where no engine requires a key."""
    del machine, endpoint
    return None
