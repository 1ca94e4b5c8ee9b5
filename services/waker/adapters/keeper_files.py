"""The folder of a `process` machine: its keeper, its port, how its last engine ended; and its log.

Only the keeper writes, under a lock that it holds for its whole life: while the lock is held, the file is about a live
keeper. So one machine never has two engines, and a recycled process id misleads nobody.
"""

import fcntl
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from shared.messages.codec import Unreadable, decode

Status = Literal["starting", "running", "stopping", "ended", "refused"]
STATE_FILE = "state.json"
LOCK_FILE = "lock"
LOG_FILE = "engine.log"
LAST_LINES = 5
LAST_CHARACTERS = 400
_TAIL_BYTES = 8192
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True, kw_only=True)
class KeeperState:
    """`state.json`. Times are Unix seconds."""

    status: Status
    generation: int
    keeper: int
    """Process id."""
    keeper_started: str
    """Tells the process from a later one with the same id."""
    started_at: float
    engine: int | None = None
    """Process and group id."""
    engine_started: str | None = None
    port: int | None = None
    exit_status: int | None = None
    """Negative: the signal that ended it."""
    ended_at: float | None = None
    reason: str = ""


def machine_folder(data_dir: Path, machine: str) -> Path:
    """Where a machine's files lie; any printable name makes a plain file name."""
    plain = "".join(c if c in _PLAIN else "".join(f"={b:02X}" for b in c.encode()) for c in machine)
    return data_dir / "machines" / plain


def read_state(folder: Path) -> KeeperState | None:
    """Return the state; None if there is none or it is unreadable. `OSError`: the folder cannot be read."""
    try:
        return decode((folder / STATE_FILE).read_bytes(), KeeperState)
    except (FileNotFoundError, Unreadable):
        return None


def write_state(folder: Path, state: KeeperState) -> None:
    """Write the state atomically."""
    partial = folder / f"{STATE_FILE}.new"
    partial.write_text(json.dumps(asdict(state)), "utf-8")
    partial.replace(folder / STATE_FILE)


def take_lock(folder: Path) -> int | None:
    """Take the lock and return its descriptor, to be kept open; None while a keeper holds it."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def process_start(pid: int) -> str | None:
    """When a process started, as the system prints it; None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        # No /proc, as on macOS.
        answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return answer.stdout.strip() or None
    parts = stat.rpartition(")")[2].split()
    return None if parts[0] in ("Z", "X") else parts[19]


def last_words(folder: Path) -> str:
    """The last lines of the engine's log, which may say why it ended."""
    try:
        with (folder / LOG_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
    return " | ".join(lines)[-LAST_CHARACTERS:]
