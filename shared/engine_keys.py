"""The keys that engines ask for: ours, one for each tier that names a `key_file`. No client sees or sends them."""

import re
from pathlib import Path

from shared.config import Config
from shared.errors import Misconfigured

_KEY = re.compile(rb"[\x21-\x7e]{1,4096}")
"""What fits into one HTTP header, and nothing that would end it."""
_LOOPBACK = "http://127.0.0.1:"
"""Where the engines of commands listen."""


class EngineKeys:
    """Read once, from the files that the tiers name. `Misconfigured` where one cannot be read or holds no key."""

    def __init__(self, config: Config) -> None:
        keys = {tier.name: _read(tier.name, tier.key_file) for tier in config.tier if tier.key_file is not None}
        self._keys = {
            machine.id: (keys[machine.tier], machine.endpoint.rstrip("/") if machine.endpoint else None)
            for machine in config.machine
            if machine.tier in keys
        }

    def find(self, machine: str, endpoint: str) -> str | None:
        """Return the key for a machine's engine at this endpoint; None where there is none.

        It goes nowhere but where the configuration has the machine, or to this host for a command: whoever rewrote a
        record would have it otherwise.
        """
        key, configured = self._keys.get(machine, (None, None))
        at_home = endpoint.startswith(_LOOPBACK) if configured is None else endpoint == configured
        return key if at_home else None


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
    return key.decode("ascii")
