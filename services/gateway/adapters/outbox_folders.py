"""The outbox folders: one for each process that shares the data directory."""

import fcntl
import os
from pathlib import Path

import structlog

LOCK = "lock"
"""The file in an outbox folder that its process keeps locked."""

log = structlog.get_logger()


def outbox_folder(data_dir: Path, worker: int) -> Path:
    return data_dir / "gateway" / ("outbox" if worker == 0 else f"outbox-{worker}")


def lock_folder(folder: Path) -> int:
    """Lock an outbox folder, and return the descriptor that holds the lock.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    return lock


def adopt_left_behind(data_dir: Path, workers: int) -> None:
    """Move the segments of workers that no longer exist to the first worker's outbox.

    Call this before that outbox is opened. A folder that a process still uses is left alone.
    """
    own = outbox_folder(data_dir, 0)
    own.mkdir(parents=True, exist_ok=True)
    for folder in sorted(own.parent.glob("outbox-*")):
        number = folder.name.removeprefix("outbox-")
        if not number.isdecimal() or int(number) < workers:
            continue
        try:
            lock = lock_folder(folder)
        except BlockingIOError:
            log.warning("outbox_in_use", folder=str(folder))
            continue
        for left in (*folder.glob("*.log"), *folder.glob("*.responses")):
            left.rename(own / left.name)
        (folder / LOCK).unlink()
        folder.rmdir()
        os.close(lock)
        log.info("outbox_adopted", folder=str(folder))
