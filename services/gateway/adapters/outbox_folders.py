"""Which folder is whose outbox: one for each process that shares the data directory."""

import fcntl
import os
from pathlib import Path

import structlog

log = structlog.get_logger()

LOCK = "lock"
"""The file in an outbox's folder that its process holds locked."""


def outbox_folder(data_dir: Path, worker: int) -> Path:
    return data_dir / "gateway" / ("outbox" if worker == 0 else f"outbox-{worker}")


def adopt_left_behind(data_dir: Path, workers: int) -> None:
    """Usage that more workers than there are now left unsent: the first worker sends it.

    Called before its own outbox is opened. A folder that a process still uses is left to it.
    """
    own = outbox_folder(data_dir, 0)
    own.mkdir(parents=True, exist_ok=True)
    for folder in sorted(own.parent.glob("outbox-*")):
        number = folder.name.removeprefix("outbox-")
        if number.isdecimal() and int(number) >= workers:
            _move(folder, own)


def _move(folder: Path, own: Path) -> None:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for segment in folder.glob("*.log"):
            segment.rename(own / segment.name)
        (folder / LOCK).unlink()
        folder.rmdir()
        log.info("outbox of a former worker taken over", folder=str(folder))
    except BlockingIOError:
        log.warning("another process still uses an outbox", folder=str(folder))
    finally:
        os.close(lock)
