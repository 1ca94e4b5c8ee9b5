"""The keys that engines require, one for each tier with a `key_file`. Clients neither see nor send them."""

import re
from pathlib import Path

from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.fleet_records import is_assigned
from shared.messages.codec import decode_text

_KEY = re.compile(rb"[\x21-\x7e]{1,4096}")
"""What fits into one HTTP header without ending it."""


class EngineKeys:
    """The keys, read once from the files. Raises `Misconfigured` for a file that cannot be read or holds no key."""

    def __init__(self, config: Config) -> None:
        keys = {tier.name: _read(tier.name, tier.key_file) for tier in config.tier if tier.key_file is not None}
        self._keys = {m.id: (m, keys[m.tier]) for m in config.machine if m.tier in keys}

    def find(self, machine: str, endpoint: str) -> str | None:
        """Return the key for a machine's engine at this endpoint; None if it has none.

        The key is only sent to the endpoint in the configuration, or to this host for a `process` machine. Otherwise
        anyone who can write a record could obtain it.
        """
        configured, key = self._keys.get(machine, (None, None))
        return key if configured is not None and is_assigned(configured, endpoint) else None


def no_key(machine: str, endpoint: str) -> str | None:
    """Stands for `EngineKeys.find` where no engine requires a key."""
    del machine, endpoint
    return None


def _read(tier: str, path: Path) -> str:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise Misconfigured(f"tier {tier!r}: key_file {path}: {error.strerror}") from error
    if not _KEY.fullmatch(key):
        raise Misconfigured(f"tier {tier!r}: key_file {path}: expected one key of printable ASCII without spaces")
    return decode_text(key)
