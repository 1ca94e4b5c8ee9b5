"""The keys that engines ask for: ours, one for each tier that names a `key_file`. No client sees or sends them."""

import re
from pathlib import Path

from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.fleet_records import is_assigned
from shared.messages.codec import decode_text

_KEY = re.compile(rb"[\x21-\x7e]{1,4096}")
"""What fits into one HTTP header, and nothing that would end it."""


class EngineKeys:
    """Read once, from the files that the tiers name. `Misconfigured` where one cannot be read or holds no key."""

    def __init__(self, config: Config) -> None:
        keys = {tier.name: _read(tier.name, tier.key_file) for tier in config.tier if tier.key_file is not None}
        self._keys = {m.id: (m, keys[m.tier]) for m in config.machine if m.tier in keys}

    def find(self, machine: str, endpoint: str) -> str | None:
        """Return the key for a machine's engine at this endpoint; None where there is none.

        It goes nowhere but where the configuration has the machine, or to this host for a command: whoever rewrote a
        record would have it otherwise.
        """
        configured, key = self._keys.get(machine, (None, None))
        return key if configured is not None and is_assigned(configured, endpoint) else None


def no_key(machine: str, endpoint: str) -> str | None:
    """No engine asks for a key."""
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
