"""How much of its volume the embedded bus may fill, so that the ledger and the gateways' outboxes always have room."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.bus.topology import USAGE
from shared.messages.codec import Unreadable, decode

STORE_SHARE = 2, 3
"""Of what the volume has for us: the ledger keeps the same events for as long, in about half as many bytes."""
CONTROL_BYTES = 1024**3
"""Kept from usage, for everything else on the bus: leases, keys, the fleet, its journal, invoices. A fourth at most."""
ROOM_BYTES = 1024**2
"""The disk has room again when a file of this size can be written."""


@dataclass(frozen=True)
class StoreLimits:
    """Bytes. `usage` is the USAGE stream's part of `total`."""

    total: int
    usage: int


class _StreamMeta(msgspec.Struct, frozen=True):
    """The server's own note of a stream."""

    max_bytes: int = -1


def store_limits(*, stored: int, free: int, usage_before: int = 0) -> StoreLimits:
    """From the size of the store, the free space beside it, and the limit that the USAGE stream has now.

    What is stored already may exceed the share; half of the free space is left even then. NATS refuses to change a
    stream while the limits of all streams exceed `total`, so that it is not below `usage_before`.
    """
    numerator, denominator = STORE_SHARE
    total = max((stored + free) * numerator // denominator, stored + free // 2, usage_before)
    return StoreLimits(total=total, usage=total - min(CONTROL_BYTES, total // 4))


def measure(folder: Path) -> StoreLimits:
    """The limits for a store in `folder`. `OSError` where it cannot be read."""
    files = (path for path in folder.rglob("*") if path.is_file())
    stored = sum(path.stat().st_size for path in files)
    return store_limits(stored=stored, free=shutil.disk_usage(folder).free, usage_before=_usage_limit(folder))


def _usage_limit(folder: Path) -> int:
    """What the server has noted; 0 where there is none."""
    try:
        data = (folder / "jetstream" / "$G" / "streams" / USAGE.name / "meta.inf").read_bytes()
        return max(0, decode(data, _StreamMeta).max_bytes)
    except (OSError, Unreadable):
        return 0


def has_room(folder: Path) -> bool:
    """Whether the disk takes anything. Blocks: call it from a thread."""
    probe = folder / "room.probe"
    try:
        with probe.open("wb", buffering=0) as file:
            return file.write(bytes(ROOM_BYTES)) == ROOM_BYTES
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
