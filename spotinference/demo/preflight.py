"""What the demo needs of the machine, looked at before anything is started. Each complaint names its fix."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from spotinference.demo.suite import DemoFailed
from spotinference.engine import model_file

CHECK_SECONDS = 60.0
"""For an import; a cold disk takes a few."""
MODEL_BYTES = 250_000_000
"""The wheel and the model that is taken out of it."""
DATA_BYTES = 300_000_000
"""The bus, the databases and the logs of a demo are some 20 MB; the rest is air."""
ENGINE_CHECK = (sys.executable, "-m", "spotinference.engine", "--check")


def check(folder: Path) -> None:
    """Raises `DemoFailed` with what is missing. `folder` is the demo's own, and exists."""
    _check_disk(folder, DATA_BYTES, "name another with --data-dir")
    models = model_file.models_folder()
    if not (models / Path(model_file.MEMBER).name).is_file():
        _check_disk(models, MODEL_BYTES, "set XDG_CACHE_HOME to another")
    _check_ports()
    _check_engine()


def _check_disk(folder: Path, needed: int, fix: str) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DemoFailed(
            f"{needed / 1e6:.0f} MB are needed in {folder}, and {free / 1e6:.0f} MB are free: make room, or {fix}"
        )
    if not os.access(existing, os.W_OK):
        raise DemoFailed(f"{existing} cannot be written to: {fix}")


def _check_ports() -> None:
    """Every service listens on a port that the system chooses."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        raise DemoFailed(f"no free port on 127.0.0.1: {error}: is the loopback interface up?") from error


def _check_engine() -> None:
    """In a process of its own, as the waker starts it."""
    try:
        done = subprocess.run(ENGINE_CHECK, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DemoFailed(
            f"the small engine was not loaded within {CHECK_SECONDS:g} s: is the disk this slow?"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DemoFailed(reason.removeprefix("spotinference engine: "))
