"""How much disk space the embedded bus may use, so that the ledger and the gateways' outboxes always have room."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.bus.topology import USAGE
from shared.messages.codec import Unreadable, decode

STORE_SHARE = 2, 3
"""The part of the available space: the ledger keeps the same events as long, in about half as many bytes."""
CONTROL_BYTES = 1024**3
"""Reserved for everything but usage: leases, keys, the fleet, its journal, invoices. At most a quarter."""
ROOM_BYTES = 1024**2
"""The disk has room if a file of this size can be written."""


@dataclass(frozen=True)
class StoreLimits:
    """Limits in bytes. `usage` is the USAGE stream's part of `total`."""

    total: int
    usage: int


class _StreamMeta(msgspec.Struct, frozen=True):
    """The server's own record of a stream."""

    max_bytes: int = -1


def store_limits(*, stored: int, free: int, usage_before: int = 0) -> StoreLimits:
    """Return the limits for a store of `stored` bytes with `free` bytes beside it and a previous USAGE limit.

    The store may already exceed its share; even then, half of the free space remains. NATS rejects changes to a stream
    while the limits of all streams exceed `total`, so `total` is never below `usage_before`.
    """
    numerator, denominator = STORE_SHARE
    total = max((stored + free) * numerator // denominator, stored + free // 2, usage_before)
    return StoreLimits(total=total, usage=total - min(CONTROL_BYTES, total // 4))


def measure(folder: Path) -> StoreLimits:
    """Return the limits for the store in `folder`. Raises `OSError` if it cannot be read."""
    files = (path for path in folder.rglob("*") if path.is_file())
    stored = sum(path.stat().st_size for path in files)
    return store_limits(stored=stored, free=shutil.disk_usage(folder).free, usage_before=_usage_limit(folder))


def _usage_limit(folder: Path) -> int:
    """Return the USAGE stream's limit in the server's record; 0 if there is none."""
    try:
        data = (folder / "jetstream" / "$G" / "streams" / USAGE.name / "meta.inf").read_bytes()
        return max(0, decode(data, _StreamMeta).max_bytes)
    except (OSError, Unreadable):
        return 0


def has_room(folder: Path) -> bool:
    """Return whether the disk has room. Blocks: call it in a thread."""
    probe = folder / "room.probe"
    try:
        with probe.open("wb", buffering=0) as file:
            return file.write(bytes(ROOM_BYTES)) == ROOM_BYTES
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
