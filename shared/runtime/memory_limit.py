"""The memory that this process's control group may use: in a container, the container's limit."""

from pathlib import Path

from shared.messages.codec import Unreadable, decode_text

UNLIMITED_BYTES = 1 << 60
"""Version 1 says "no limit" with a number above this."""


def read_memory_limit(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the lowest limit of the process's group and those above it, in bytes; None: there is none.

    Arguments:
        groups: where the control groups are mounted, version 2 or 1.
        own: the file that names the process's own groups. In a container they may lie outside the mount; then the
            mount is the container's own group.
    """
    limits: list[int] = []
    for line in _read(own).splitlines() or ["0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            folder, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for depth in range(len(parts) + 1):
            text = _read(folder.joinpath(*parts[:depth], name)).strip()
            if text.isdecimal():
                limits.append(int(text))
    return min((limit for limit in limits if 0 < limit < UNLIMITED_BYTES), default=None)


def _read(path: Path) -> str:
    """Return the file's text; nothing if it cannot be read."""
    try:
        return decode_text(path.read_bytes())
    except (OSError, Unreadable):
        return ""
