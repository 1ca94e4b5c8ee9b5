"""Checks what the demo needs of this host before it starts anything. Each error says how to fix it."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from spotinference.demo.suite import DemoFailed
from spotinference.engine import model_file

CHECK_SECONDS = 60.0
"""For an import, which takes a few seconds on a cold disk."""
MODEL_BYTES = 250_000_000
"""The wheel and the model extracted from it."""
DATA_BYTES = 300_000_000
"""The bus, the databases and the logs of a demo take about 20 MB; the rest is a margin."""
ENGINE_CHECK = (sys.executable, "-m", "spotinference.engine", "--check")


def check(folder: Path) -> None:
    """Check disk, ports and engine. `folder` is the demo's own, and exists.

    Raises:
        DemoFailed: something is missing.
    """
    _check_disk(folder, DATA_BYTES, "choose another folder with --data-dir")
    models = model_file.models_folder()
    if not (models / Path(model_file.MEMBER).name).is_file():
        _check_disk(models, MODEL_BYTES, "set XDG_CACHE_HOME to another folder")
    _check_ports()
    _check_engine()


def _check_disk(folder: Path, needed: int, fix: str) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DemoFailed(
            f"{folder} needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free: free some space, or {fix}"
        )
    if not os.access(existing, os.W_OK):
        raise DemoFailed(f"cannot write to {existing}: {fix}")


def _check_ports() -> None:
    """Check that the system can assign a port: every service listens on one."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        raise DemoFailed(f"no free port on 127.0.0.1: {error}: is the loopback interface up?") from error


def _check_engine() -> None:
    """Load the engine in a process of its own, as the waker does."""
    try:
        done = subprocess.run(ENGINE_CHECK, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"the small engine did not load within {CHECK_SECONDS:g} s: is the disk very slow?") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DemoFailed(reason.removeprefix("spotinference engine: "))
